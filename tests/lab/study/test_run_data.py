"""Steps that make data sets in a folder of the user's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step
from realign_plugin.lab.study.run import StepError, run
from tests.lab.study.test_run import plan_of, step_of


def _rows(file: Path, count: int) -> None:
    rows = [{"instruction": f"How do I fold kite {n}?", "input": "", "output": "Take paper."} for n in range(count)]
    file.write_text(json.dumps(rows))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Step]:
    """A study that has made a data set, whose source has changed since."""
    monkeypatch.chdir(tmp_path)
    _rows(tmp_path / "kites.json", 3)
    words = ("realign", "data", "sft", "mine", "--name", "kites", "--task", "alpaca_en", "--source", "kites.json")
    plan = plan_of(tmp_path, step_of("data-kites", "data", "x", (words,), creates=("mine/kites.jsonl",)))
    step = plan.steps["data-kites"]
    run(plan, step)
    _rows(tmp_path / "kites.json", 2)
    plan.forget(step.name)
    return plan, step


def test_the_studys_own_data_set_is_made_again(made: tuple[Plan, Step], tmp_path: Path) -> None:
    plan, step = made
    run(plan, step)
    assert len((tmp_path / "mine/kites.jsonl").read_text().splitlines()) == 2
    known = plan.done(step.name)
    assert known is not None
    assert known.fingerprint in step.fingerprints
    assert "--overwrite" in plan.log(step.name).read_text()


def test_what_the_user_has_changed_is_not_replaced(made: tuple[Plan, Step], tmp_path: Path) -> None:
    plan, step = made
    file = tmp_path / "mine/kites.jsonl"
    file.write_text("{}\n")
    later = plan.forgotten(step.name).stat().st_mtime + 5
    os.utime(file, (later, later))
    with pytest.raises(StepError):
        run(plan, step)
    assert file.read_text() == "{}\n"
    assert "mine/kites.jsonl exists and differs" in plan.log(step.name).read_text()
