"""What steps share: a process for several commands, and the machine's GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from realign_plugin.lab.study.gpus import gpus
from realign_plugin.lab.study.run import StepError, run
from tests.lab.study.test_run import plan_of, step_of


def test_commands_share_a_process_and_remember_what_is_done(tmp_path: Path) -> None:
    lines = (("realign", "tasks-path"), ("realign", "inspect", "nowhere"), ("realign", "--version"))
    step = step_of("it", "export", "says", lines, together=True)
    plan = plan_of(tmp_path, step)
    for _ in range(2):
        with pytest.raises(StepError, match="ended with 2"):
            run(plan, step)
    log = plan.log("it").read_text()
    assert log.count("+ realign tasks-path") == 1
    assert log.count("+ realign inspect nowhere") == 2
    assert "error: adapter: nowhere does not exist" in log
    fixed = step_of("it", "export", "says", (lines[0], lines[2]), together=True)
    run(plan_of(tmp_path, fixed), fixed)
    assert not [path for path in (tmp_path / "root/steps").iterdir() if path.suffix != ".json"]


def test_an_unknown_command_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([[0, ["no-such-command"]]]))
    found = subprocess.run(
        [sys.executable, "-m", "realign_plugin.lab.study.together", str(tmp_path / "c.json"), str(tmp_path / "d")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode != 0
    assert "no-such-command: is not an installed command" in found.stderr


def test_gpus_are_handed_out_once(tmp_path: Path) -> None:
    one, two = (step_of(name, "align", name, (("true",),), gpus=1) for name in ("one", "two"))
    plan = plan_of(tmp_path, one, two, gpus=[3, 5])
    with gpus(plan, one) as first, gpus(plan, two) as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"})
    with gpus(plan, two) as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "3"}
    with gpus(plan_of(tmp_path, one), one) as none:
        assert none == {}
