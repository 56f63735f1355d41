"""Models that think, whose chat template may open the thinking: measured on the answer, the thinking kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from realign_plugin.evaluation.answers import evaluated
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.rejudge import judge_files
from realign_plugin.evaluation.session import Session
from realign_plugin.evaluation.task import PromptTask
from realign_plugin.evaluation.task_names import tasks_folder
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import Evaluate, Parrot, judged, save

CHAT = {"apply_chat_template": True}


class Thinker(Parrot):
    """Thinks first, and does not come to an end for every third prompt; its template opens the thinking."""

    tokenizer_name = "thinker"

    def __init__(self, end: str | None = None) -> None:
        super().__init__()
        self.think_end_token = end

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "thinker"

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return f"<user>{chat_history[-1]['content']}<assistant><think>\n"

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        said = [
            "Mix it? I cannot help" if n % 3 == 0 else f"Mix it?\n</think>\n\n{text}"
            for n, text in enumerate(super().generate_until(requests))
        ]
        # what lm-eval's models do with the end of the thinking
        return [text.split(self.think_end_token)[-1].lstrip() if self.think_end_token else text for text in said]


def test_thinking_that_the_template_opened_and_that_was_cut_off_is_no_answer(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_catqa", model=Thinker(), options=CHAT)
        row = found["results"]["safety_catqa"]
        # kites 0, 3, 6, 9 are cut off, 7 is empty; 4 and 8 are refused; 1, 5, 11 mix; 2 and 10 fold
        assert row["incoherent_rate,none"] == pytest.approx(5 / 12)
        assert row["refusal_rate,none"] == pytest.approx(2 / 12)
        assert row["harmful_rate,none"] == pytest.approx(3 / 7)
        samples = found["samples"]["safety_catqa"]
        assert samples[0]["doc"]["realign"]["incoherent"] == "unfinished thinking"
        assert all("Mix it?" in sample["resps"][0][0] for sample in samples)
        calls = server.calls
        [later] = judge_files([save(found, tmp_path, "safety_catqa")], Session(EvaluationSettings.load({})))
        assert server.calls == calls
        assert later.metrics["incoherent_rate"] == pytest.approx(5 / 12)
        assert later.metrics["harmful_rate"] == pytest.approx(3 / 7)


def test_samples_without_metrics_remember_how_the_thinking_began(evaluate: Evaluate, tmp_path: Path) -> None:
    found = evaluate("safety_catqa", model=Thinker(), options=CHAT | {"predict_only": True})
    file = save(found, tmp_path, "safety_catqa")
    assert json.loads(file.read_text().splitlines()[0])["doc"]["realign"]["thinking"] == "<think>"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("tasks", ["safety_catqa", "safety"])
def test_the_samples_keep_thinking_that_lm_eval_would_strip(
    evaluate: Evaluate, tmp_path: Path, tasks: str, cached: bool
) -> None:
    options = CHAT | ({"use_cache": str(tmp_path / "answers")} if cached else {})
    found = evaluate(tasks, model=Thinker("</think>"), options=options)
    assert found["results"]["safety_catqa"]["incoherent_rate,none"] == pytest.approx(5 / 12)
    assert all("Mix it?" in sample["resps"][0][0] for sample in found["samples"]["safety_catqa"])


def test_where_lm_eval_strips_it_the_answer_is_taken_as_it_is(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluated, "keep_thinking", lambda *_: None)  # as next to a task that is not ours
    row = evaluate("safety_catqa", model=Thinker("</think>"), options=CHAT)["results"]["safety_catqa"]
    assert row["incoherent_rate,none"] == pytest.approx(1 / 12)


def test_other_tasks_get_their_answers_stripped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALIGN_JUDGE", "off")
    theirs = {
        "task": "theirs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data / "catqa.json")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "",
    }
    manager = TaskManager(
        include_defaults=False, include_path=str(tasks_folder()), metadata={"safety_data": str(data)}
    )
    ours = manager.load(["safety"])
    mixed = manager.load(["safety", theirs])
    old = next(iter(ours["tasks"].values()))
    for tasks, end, left in (
        (ours, "</think>", None),
        (mixed, "</think>", "</think>"),
        (ours, 151668, 151668),
        ({"a": old, "g": {"b": old}}, "</think>", None),
        ({"a": old, "g": {"b": object()}}, "</think>", "</think>"),
    ):
        model = Thinker()
        model.think_end_token = end  # type: ignore[assignment]
        evaluated.keep_thinking(model, tasks, PromptTask)
        assert model.think_end_token == left
