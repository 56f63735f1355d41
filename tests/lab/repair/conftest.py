"""Fixtures of the tests that run a repair."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realign_plugin.lab.repair import plan, running
from tests.conftest import make_llama, make_lora, make_tokenizer
from tests.lab.repair.ruled import SMALL, Ruled, options_of
from tests.stock import Forked


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, adapters far from each other, so that distillation has something to do, and prompts."""
    root = tmp_path_factory.mktemp("materials")
    make_llama(root / "base")
    make_tokenizer(root / "base")
    make_lora(root / "base", root / "aligned")
    make_lora(root / "base", root / "tuned", start=root / "aligned", seed=11, step=0.3)
    for name, word in (("harmful", "kite"), ("benign", "bread"), ("skill", "string")):
        rows = [{"prompt": f"how do i make {word} {number} ?"} for number in range(40)]
        if name == "skill":
            rows = [row | {"answer": "take paper and fold it ."} for row in rows]
        (root / f"{name}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.BUDGETS, "quick", SMALL)  # type: ignore[arg-type]
    monkeypatch.setattr(plan, "CPU_BATCH", 16)
    monkeypatch.setattr(Ruled, "stops_after", 10**6)


@pytest.fixture
def given(materials: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a repair into a new folder."""
    return options_of(materials, tmp_path / "out")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that start quickly; those of ``finished`` start as a user's do."""

    def popen(command: list[str], stdout: Any, **_: Any) -> Forked:
        assert command[1:3] == ["-m", "llamafactory.cli"]
        return Forked(["llamafactory-cli", *command[3:]], dict(os.environ), stdout.name, stdout.name)

    stands_in = SimpleNamespace(Popen=popen, STDOUT=subprocess.STDOUT, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(running, "subprocess", stands_in)
