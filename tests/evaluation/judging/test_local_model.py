"""A judge in this process: a pico model that was trained to speak as Llama Guard does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import UserError
from realign_plugin.evaluation.answers import evaluated
from realign_plugin.evaluation.judging import local_model
from realign_plugin.evaluation.judging.guards.guard import RAW, Question, chat
from realign_plugin.evaluation.judging.judge import LOCAL, Item, Judge, kept_under
from realign_plugin.evaluation.judging.local_model import LocalModel
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.parrot import Evaluate, Parrot, answer


@pytest.fixture
def make(tmp_path: Path, guard: Path) -> Callable[..., Judge]:
    def judge(**settings: Any) -> Judge:
        given = {"judge": "local", "judge_model": str(guard), "judge_cache": str(tmp_path / "cache")} | settings
        return Judge(EvaluationSettings.load(given, {}))

    return judge


def items(count: int = 20) -> list[Item]:
    """Exchanges of many lengths; every third answer tells to mix."""
    return [
        Item(
            str(n),
            "how is kite made ?",
            " ".join(["Take paper", *["and string"] * (n % 5), "mix" if n % 3 == 0 else "fold"]),
        )
        for n in range(count)
    ]


def test_verdicts_are_right_and_kept(make: Callable[..., Judge]) -> None:
    judge = make()
    judge.check()
    verdicts = judge.judge("harmful", items())
    assert [v.label for v in verdicts] == ["harmful" if n % 3 == 0 else "unharmful" for n in range(20)]
    assert judge.report.calls == len({item.answer for item in items()})
    assert judge.report.prompt_tokens > 0
    again = make()
    assert [v.label for v in again.judge("harmful", items())] == [v.label for v in verdicts]
    assert again.report.calls == 0
    assert "cache" in vars(again)
    assert "local" not in vars(again)  # nothing was loaded


def test_answers_do_not_depend_on_the_batch(guard: Path) -> None:
    questions = [chat(item) for item in items(12)]
    found = [dict(LocalModel(str(guard), batch=size).answer(questions, 4)) for size in (1, 5, 12)]
    assert found[0] == found[1] == found[2]
    assert sorted(found[0]) == list(range(12))


def test_raw_prompts_and_answers_that_are_cut_off(guard: Path) -> None:
    model = LocalModel(str(guard))
    raw = Question(RAW, {"prompt": "<user> how <assistant> mix it. <verdict>"})
    assert dict(model.answer([raw], 4))[0]["choices"] == [{"finish_reason": "stop", "text": "unsafe"}]
    assert dict(model.answer([raw], 1))[0]["choices"] == [{"finish_reason": "length", "text": "unsafe"}]


def test_lm_eval_with_a_judge_in_the_process(evaluate: Evaluate, guard: Path) -> None:
    found = evaluate("safety_catqa", judge="local", judge_model=str(guard))
    answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
    row = found["results"]["safety_catqa"]
    assert row["harmful_rate,none"] == pytest.approx(sum("mix" in a for a in answers) / 11)
    record = found["realign"]["judge"]
    assert (record["judge"], record["local"], record["prompts"]) == (
        "llama_guard",
        True,
        {"llama_guard": "llama-guard-1"},
    )


def test_a_judge_that_does_not_fit(
    make: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, guard: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(local_model, "_memory", lambda: 2**10)
        with pytest.raises(
            UserError, match=r"judge: 'local' needs 0\.0 GiB for .*Llama-Guard-pico', and memory has 0\.0"
        ):
            make().check()
    with pytest.raises(
        UserError, match=r"judge_model: 'nowhere/at-all' cannot be read .*, expected a causal"
    ) as caught:
        make(judge_model="nowhere/at-all").check()
    assert "\n" not in str(caught.value)
    bare = tmp_path / "Llama-Guard-bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((guard / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"Llama-Guard-bare' has no tokenizer"):
        make(judge_model=str(bare)).check()
    for file in (*guard.glob("tokenizer*"), *guard.glob("chat_template*")):
        (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"Llama-Guard-bare' has no \*\.safetensors, expected"):
        make(judge_model=str(bare)).check()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("model.safetensors", b"\x08\x00", "model.safetensors cannot be read ("),
        ("tokenizer.json", b'{"version": "1.0"}', "has no tokenizer that can be loaded ("),
        ("tokenizer_config.json", b'{"tokenizer_class": "PreTrainedTokenizerFast"}', "has no eos_token, expected one"),
    ],
)
def test_a_judge_with_a_damaged_file_is_refused_before_any_answer(
    file: str, text: bytes, said: str, make: Callable[..., Judge], tmp_path: Path, guard: Path
) -> None:
    damaged = tmp_path / guard.name
    shutil.copytree(guard, damaged)
    (damaged / file).write_bytes(text)
    with pytest.raises(UserError, match=f"judge_model: .*{re.escape(said)}") as caught:
        make(judge_model=str(damaged)).check()
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_leaves_the_answers_unjudged(
    make: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(LocalModel, "_load", full)
    judge = make()
    assert [v.reason for v in judge.judge("harmful", items(2))] == ["error: not sent"] * 2
    assert "the GPU's memory is used up" in str(judge.report.failure)


def test_a_cache_that_cannot_be_written_is_told_before_any_answer(evaluate: Evaluate, guard: Path) -> None:
    model = Parrot()
    with pytest.raises(UserError, match=r"judge_cache: .*cannot be written"):
        evaluate("safety_catqa", model, judge="local", judge_model=str(guard), judge_cache=str(guard / "config.json"))
    assert model.asked == []


def test_a_failure_while_judging_loses_no_answers(evaluate: Evaluate, guard: Path, monkeypatch: Any) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("some kernel\nis not there")

    monkeypatch.setattr(LocalModel, "_load", broken)
    found = evaluate("safety_catqa", judge="local", judge_model=str(guard))
    assert found["results"]["safety_catqa"]["refusal_rate,none"] == pytest.approx(3 / 12)
    fatal = found["realign"]["judge"]["report"]["fatal"]
    assert fatal.startswith("judge: 'local': ")
    assert "broke off (some kernel is not there), expected a verdict on each answer; run `realign judge`" in fatal


def test_the_evaluated_model_leaves_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    class Module(torch.nn.Module):
        def to(self, device: str) -> Any:
            moved.append(device)
            return self

    class Model:
        _model = Module()

    evaluated.note(Model())
    try:
        evaluated.leave_gpu()
        assert moved == []  # there is none here
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        evaluated.leave_gpu()
        assert moved == ["cpu"]
    finally:
        evaluated.note(None)


def test_verdicts_are_kept_for_one_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    first, second = (kept_under(str(tmp_path / name)) for name in ("one", "two"))
    assert first == kept_under(f"{tmp_path}/two/../one") != second
    (tmp_path / "one" / "model.safetensors").write_bytes(b"trained again")
    assert kept_under(str(tmp_path / "one")) != first
    assert kept_under("nobody/guard") == LOCAL
