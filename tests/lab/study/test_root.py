"""Folders that snakemake could misread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.launch import make_plan, start
from realign_plugin.lab.study.planning.commands import Shell
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step


@pytest.mark.cli
def test_a_folder_that_is_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a: b #c"
    folder.mkdir()
    plan = Plan("root", str(folder), {"title": "it", "seeds": [0], "machine": {"gpus": []}})
    plan.targets["main"] = plan.targets["all"] = [plan.add(Step("it", "prepare", "it", (Shell("echo x > said"),)))]
    monkeypatch.chdir(tmp_path)
    start(plan, ["main"], ["--cores", "1"])
    assert (folder / "said").read_text() == "x\n"


def test_braces_are_refused_before_anything_is_written(lab: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    tasks = {"one": {"adapter": str(lab / "task1")}}
    study = {"root": str(tmp_path / "a{b"), "model": str(lab / "base"), "tasks": tasks}
    file.write_text(json.dumps(study))
    with pytest.raises(UserError, match=r"root: .*a\{b has braces, which snakemake takes for a wildcard"):
        make_plan(file, ())
    assert list(tmp_path.iterdir()) == [file]
