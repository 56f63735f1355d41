"""Answers of a pico model and its adapters."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from realign_plugin import UserError
from realign_plugin.data.answering.local import (
    SHORT,
    Answerer,
    common_start,
)
from realign_plugin.data.on_policy_options import Sources
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.evaluation.answers.thinking import final_answer
from tests.conftest import make_llama, make_lora, make_tokenizer
from tests.data.two_models import make

PROMPTS = [Prompt("how do i make a kite ?"), Prompt("what is blue ?"), Prompt("tell me the way to bake bread ?")]


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A base in bf16 with an adapter, ``tuned``."""
    make_llama(tmp_path / "base", dtype=torch.bfloat16)
    make_tokenizer(tmp_path / "base")
    make_lora(tmp_path / "base", tmp_path / "tuned")
    return tmp_path


def test_each_model_answers_as_alone(lab: Path) -> None:
    together = Answerer(str(lab / "base"), {"base": None, "one": lab / "task1", "two": lab / "task2"})
    for name, adapter in together.adapters.items():
        alone = Answerer(str(lab / "base"), {name: adapter})
        assert together.answers(name, PROMPTS, 12) == alone.answers(name, PROMPTS, 12)
    assert together.answers("one", PROMPTS, 12) != together.answers("base", PROMPTS, 12)


def test_adapters_have_the_dtype_of_the_model(half: Path) -> None:
    answerer = Answerer(str(half / "base"), {"tuned": half / "tuned"})
    answerer.add("again", half / "tuned")
    assert {parameter.dtype for parameter in answerer.model.parameters()} == {torch.bfloat16}
    assert answerer.answers("tuned", PROMPTS, 8) == answerer.answers("again", PROMPTS, 8)


def test_the_head_sees_no_gaps(lab: Path) -> None:
    """torch copies the head's weight once for each row of an input that has gaps."""
    answerer = Answerer(str(lab / "base"), {"base": None})
    seen: list[bool] = []
    head = answerer.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    answerer.answers("base", PROMPTS, 4)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [Prompt("go")] * 2], ids=["three", "one", "equal"])
def test_a_shared_start_is_read_once_and_changes_no_answer(lab: Path, prompts: list[Prompt]) -> None:
    """Rows are answered as each is alone, without a cache or padding."""
    asked = [Prompt(prompt.instruction, system="a red dog and a blue cat eat bread and nails") for prompt in prompts]
    answerer = Answerer(str(lab / "base"), {"base": None, "one": lab / "task1"})
    rows = answerer.tokenizer([answerer.text(one) for one in asked], add_special_tokens=False)["input_ids"]
    assert common_start(rows) >= 8
    sizes: list[int] = []
    base = answerer.model.get_base_model()
    base.model.register_forward_pre_hook(
        lambda _, args, given: sizes.append(given["input_ids"].shape[1] if given.get("input_ids") is not None else 0),
        with_kwargs=True,
    )
    found = answerer.answers("one", asked, 8)
    if len(asked) > 1:
        assert sizes[:2] == [common_start(rows), max(map(len, rows)) - common_start(rows)]
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), lab / "task1").eval()
    for row, text in zip(rows, found, strict=True):
        said = alone.generate(input_ids=torch.tensor([row]), max_new_tokens=8, do_sample=False)[0, len(row) :]
        assert answerer.tokenizer.decode(said, skip_special_tokens=True).strip() == text


def test_rows_without_a_shared_start_are_padded_on_the_left(lab: Path) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None})
    texts = ["kite how do i make", "what is blue ?", "the way to bake bread"]
    found = answerer._batch("base", texts, 6)
    assert found == [answerer._batch("base", [text], 6)[0] for text in texts]


def test_a_start_is_not_shared_where_a_layer_sees_a_window(tmp_path: Path) -> None:
    """Padding between the start and the rest would fill the window."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=2,
        initializer_range=0.2, sliding_window=6,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    answerer = Answerer(str(tmp_path), {"base": None})
    texts = [f"a red dog and a blue cat eat bread and nails {text}" for text in ("so", "tell me the way to bake")]
    rows = answerer.tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert common_start(rows) >= 8
    assert answerer._read(rows) == (0, {})
    assert answerer._batch("base", texts, 6) == [answerer._batch("base", [text], 6)[0] for text in texts]


def test_a_template_that_opens_the_thinking(lab: Path, tmp_path: Path, asked: Sources) -> None:
    """The tag is in the prompt; without it, thoughts that were cut off would pass for an answer."""
    thinks = shutil.copytree(lab / "base", tmp_path / "thinks")
    template = thinks / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<think>\n{% endif %}")
    answerer = Answerer(str(thinks), {"base": None})
    said = answerer.answers("base", PROMPTS, 6)
    assert all(answer.startswith("<think>") for answer in said)
    assert [final_answer(answer) for answer in said] == [None] * 3
    with pytest.raises(UserError, match=r"20 of 20 answers of the aligned model are still thinking after 8 tokens"):
        make(lab, tmp_path / "data", asked, Answerer, model=str(thinks), max_tokens=8, skill_max_tokens=8)


def test_a_prompt_that_is_too_long_has_no_answer(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None})
    short, long = PROMPTS[0], Prompt("red " * 60)
    tokens = len(answerer.tokenizer(answerer.text(short), add_special_tokens=False)["input_ids"])
    assert capsys.readouterr().err.count("left out") == 0
    found = answerer.answers("base", [long, short, long], 64 - tokens)
    assert found == ["", answerer.answers("base", [short], 64 - tokens)[0], ""]
    told = rf"base does not answer 2 of 3 prompts \(with {64 - tokens} tokens of an answer they exceed its 64\)"
    assert re.search(told, capsys.readouterr().err)
    assert answerer.answers("base", [short], 65 - tokens) == [""]


@pytest.mark.parametrize("size", [1, 2])
def test_prompts_that_do_not_fit_the_memory_are_answered_in_halves(
    lab: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None})
    whole, batch = answerer.answers("base", PROMPTS, 6), answerer._batch

    def small(name: str, texts: list[str], max_tokens: int) -> list[str]:
        if len(texts) > size:
            raise torch.cuda.OutOfMemoryError
        return batch(name, texts, max_tokens)

    monkeypatch.setattr(answerer, "_batch", small)
    assert answerer.answers("base", PROMPTS, 6) == whole


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("weights", "cannot be loaded (Error no file named model.safetensors"),
        ("cut", "cannot be loaded ("),
        ("tokenizer", "cannot be loaded ("),
        ("eos", "has no eos_token, expected one"),
    ],
)
def test_a_model_that_cannot_be_loaded(lab: Path, tmp_path: Path, fault: str, told: str) -> None:
    base = shutil.copytree(lab / "base", tmp_path / "base")
    weights, config = base / "model.safetensors", base / "tokenizer_config.json"
    if fault == "weights":
        weights.unlink()
    elif fault == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif fault == "tokenizer":
        (base / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    else:
        names = json.loads(config.read_text())
        config.write_text(json.dumps({name: value for name, value in names.items() if name != "eos_token"}))
    with pytest.raises(UserError, match=rf"--model: .*{re.escape(told)}") as caught:
        Answerer(str(base), {"base": None})
    assert "\n" not in str(caught.value)


def test_where_rows_part() -> None:
    assert common_start([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert common_start([[1, 2, 3], [1, 2, 3]]) == 2  # one token is left to go on from
    assert common_start([[1], [1, 2]]) == common_start([[1, 2], [3, 2]]) == 0


def test_short_rows_have_plain_attention_on_a_cpu(lab: Path) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None})
    usual, seen = answerer.model.config._attn_implementation, list[str]()
    assert usual == "sdpa"
    answerer.model.model.register_forward_pre_hook(lambda *_: seen.append(answerer.model.config._attn_implementation))
    for tokens in (4, SHORT):
        with answerer._attention(tokens + 1):
            answerer.model(input_ids=torch.tensor([[3, 8, 9]]))
    assert seen == ["eager", "sdpa"]
    assert answerer.model.config._attn_implementation == usual


def test_logits_of_the_last_tokens_are_those_of_each_row_alone(lab: Path) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None, "one": lab / "task1"})
    rows = [[3, 8, 9, 10], [3, 11, 12, 13, 14, 15, 16]]
    ids = torch.tensor([[0, 0, 0, *rows[0]], rows[1]])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), lab / "task1").eval()
    found, seen = answerer.logits("one", ids, (ids > 0).long(), 3)
    for number, row in enumerate(rows):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([row])).logits[0, -3:]
        torch.testing.assert_close(found[number], wanted, atol=1e-5, rtol=1e-4)
    base, _ = answerer.logits("base", ids, (ids > 0).long(), 3)
    both, _ = answerer.logits("base", ids, (ids > 0).long(), 3, seen)
    assert answerer.one_head
    assert (base - found).abs().max() > 1e-2
    torch.testing.assert_close(both, torch.cat([base, found]), atol=1e-6, rtol=1e-5)


def test_an_adapter_of_the_head(lab: Path, tmp_path: Path) -> None:
    adapter = make_lora(lab / "base", tmp_path / "head", seed=1, target_modules=["q_proj", "lm_head"])
    assert not Answerer(str(lab / "base"), {"one": adapter}).one_head


def test_an_adapter_of_another_model(lab: Path, deep: Path) -> None:
    answerer = Answerer(str(lab / "base"), {"base": None})
    with pytest.raises(UserError, match="is not an adapter of"):
        answerer.add("other", deep / "task1")
