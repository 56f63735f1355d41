"""The skill, read off a pico model, against one row at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.skill import FINE_TUNED, ROWS, SkillReader, _tokens
from tests.conftest import make_lora

WORDS = ["take", "paper", "and", "string", "then", "fold", "it", "mix", "flour", "water", "one", "two", "three"]


def rows(count: int) -> list[Example]:
    """Prompts and answers of many lengths."""
    return [
        Example(Prompt(f"how do i make {WORDS[n % 13]} {'red ' * (n % 4)}?"), " ".join(WORDS[: 1 + n % 7]))
        for n in range(count)
    ]


@pytest.fixture
def answerer(lab: Path) -> Answerer:
    return Answerer(str(lab / "base"), {"aligned": None, FINE_TUNED: lab / "task1", "repaired": lab / "task2"})


def test_each_row_as_read_alone(lab: Path, answerer: Answerer) -> None:
    given = rows(ROWS + 3)
    found = SkillReader().read(lambda: answerer, "repaired", given)
    tokenizer = answerer.tokenizer
    models = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), lab / name).eval().double()
        for name in ("task2", "task1")
    ]
    for reading, row in zip(found, given, strict=True):
        prompt = tokenizer(answerer.text(row.prompt), add_special_tokens=False)["input_ids"]
        end = [*tokenizer(row.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            mine, tuned = (
                one(input_ids=torch.tensor([prompt + end])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for one in models
            )
        target = torch.tensor(end)
        assert reading.tokens == len(end)
        assert reading.correct == int((mine.argmax(-1) == target).sum())
        assert reading.loss == pytest.approx(-float(mine.gather(1, target[:, None]).sum()), rel=1e-4)
        assert reading.divergence == pytest.approx(float((tuned.exp() * (tuned - mine)).sum()), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("most_bytes", [1 << 30, 0])
def test_the_fine_tuned_model_runs_once_where_there_is_room(
    answerer: Answerer, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    logits = answerer.logits
    monkeypatch.setattr(answerer, "logits", lambda name, *given: asked.append(name) or logits(name, *given))
    reader, given = SkillReader(most_bytes), rows(ROWS)
    before = reader.read(lambda: answerer, FINE_TUNED, given)
    reader.read(lambda: answerer, "repaired", given)
    reader.read(lambda: answerer, "aligned", given)
    assert asked.count(FINE_TUNED) == (1 if most_bytes else 3)
    assert (asked.count("repaired"), asked.count("aligned")) == (1, 1)
    assert all(reading.divergence == 0.0 for reading in before)


def test_rows_are_read_with_others_of_their_length(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    given, logits = rows(3 * ROWS), answerer.logits
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        answerer, "logits", lambda name, ids, *more: shapes.append(ids.shape) or logits(name, ids, *more)
    )
    SkillReader().read(lambda: answerer, "repaired", given)
    sorted_ = sum(rows * tokens for rows, tokens in shapes)
    _, mask, _ = _tokens(answerer, given)
    assert mask.sum() <= sorted_ < 0.9 * mask.numel() * 2  # of both models


def test_a_head_with_an_adapter_of_its_own(lab: Path, tmp_path: Path) -> None:
    tuned, repaired = (
        make_lora(lab / "base", tmp_path / str(seed), seed=seed, target_modules=["v_proj", "lm_head"])
        for seed in (1, 2)
    )
    answerer, given = Answerer(str(lab / "base"), {FINE_TUNED: tuned, "repaired": repaired}), rows(ROWS)
    reader = SkillReader()
    reader.read(lambda: answerer, FINE_TUNED, given)
    found = reader.read(lambda: answerer, "repaired", given)
    assert found == SkillReader(0).read(lambda: answerer, "repaired", given)
    assert all(reading.divergence > 1e-3 for reading in found)


def test_a_tag_of_the_thinking_that_the_prompt_has_is_not_read_again(answerer: Answerer) -> None:
    answerer.tokenizer.chat_template += "<think>\n"
    prompt = Prompt("paper ?")
    (tagged,), (plain,) = (_tokens(answerer, [Example(prompt, f"{tag}fold it")])[2] for tag in ("<think>", ""))
    assert tagged == plain


def test_no_rows(answerer: Answerer) -> None:
    assert SkillReader().read(lambda: answerer, "repaired", []) == []


def test_too_many_rows_for_the_memory_are_read_in_halves(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    given, logits = rows(ROWS), answerer.logits
    whole = SkillReader().read(lambda: answerer, "repaired", given)
    sizes: list[int] = []

    def small(name: str, ids: torch.Tensor, *more: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.cuda.OutOfMemoryError
        return logits(name, ids, *more)

    monkeypatch.setattr(answerer, "logits", small)
    halves = SkillReader().read(lambda: answerer, "repaired", given)
    assert sizes[:3] == [8, 4, 2]
    assert [one.tokens for one in halves] == [one.tokens for one in whole]
    assert [one.loss for one in halves] == pytest.approx([one.loss for one in whole], rel=1e-4)
    monkeypatch.setattr(answerer, "logits", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        SkillReader().read(lambda: answerer, "repaired", given[:1])
