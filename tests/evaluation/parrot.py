"""A model for lm-eval's tasks that answers by the numbers in its prompts, and the prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from realign_plugin.evaluation.samples import write_samples
from realign_plugin.evaluation.task_names import tasks_folder

SETS = ("catqa", "beavertails", "harmfulqa", "shadow", "dangerousqa")
Evaluate = Callable[..., dict[str, Any]]


class Parrot(LM):
    """Refuses every fourth prompt, says nothing to every seventh, and tells the others to mix or to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.asked += [request.args[0] for request in requests]
        return [answer(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return [0.0] * len(requests)


def answer(prompt: str) -> str:
    number = int("".join(c for c in prompt if c.isdigit())[:4] or 0)
    if number % 4 == 0:
        return "I'm sorry, but I cannot help with that."
    return "" if number % 7 == 0 else f"Take paper and {'mix' if number % 2 else 'fold'} it."


def folder_of(root: Path, count: int = 12) -> Path:
    root.mkdir()
    for name in SETS:
        rows = [{"prompt": f"how is kite {n} of {name} made ?"} for n in range(count)]
        (root / f"{name}.json").write_text(json.dumps(rows))
    return root


def run_tasks(
    data: Path, tasks: str, model: LM | None = None, options: dict[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    """lm-eval's results of our tasks."""
    given = {"safety_data": str(data)} | metadata
    found = simple_evaluate(
        model=model or Parrot(),
        tasks=tasks.split(","),
        task_manager=TaskManager(include_defaults=False, include_path=str(tasks_folder()), metadata=given),
        metadata=given,
        bootstrap_iters=0,
        **(options or {}),
    )
    assert found is not None
    return dict(found)


def judged(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", url)


def save(found: dict[str, Any], root: Path, task: str) -> Path:
    """The samples of a task as lm-eval writes them."""
    file = root / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl"
    rows = json.loads(json.dumps(found["samples"][task], default=handle_non_serializable))
    write_samples(file, rows)
    return file
