"""A study that is told to stop: in front and in the background, where SIGINT is ignored by inheritance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from realign_plugin.lab.study.planning.plan import Plan

pytestmark = pytest.mark.cli

SLOW = """import pathlib, subprocess, sys, time
root = pathlib.Path(sys.argv[1])
if not (root / "let").exists():
    child = subprocess.Popen(["sleep", "600"])
    (root / "pids").write_text(str(child.pid))
    time.sleep(600)
(root / "slow").touch()
"""


@pytest.fixture
def config(lab: Path, tmp_path: Path) -> Path:
    """A study whose second step does not end by itself, and has a child of its own."""
    (tmp_path / "slow.py").write_text(SLOW)
    root = tmp_path / "run"
    values = {
        "root": str(root),
        "model": str(lab / "base"),
        "dataset_dir": str(lab),
        "prepare": [
            {"name": "quick", "command": f"echo x >> {root}/quick", "creates": [f"{root}/quick"]},
            {"name": "slow", "command": f"{sys.executable} {tmp_path}/slow.py {root}", "creates": [f"{root}/slow"]},
        ],
        "tasks": {"one": {"adapter": str(lab / "task1")}},
        "evaluate": {"tasks": "safety_shadow", "metadata": {"judge": "off"}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "study.yaml"


def _ignoring() -> None:
    """What a shell without job control does to a program in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not file.exists() or not file.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def stop(config: Path, number: int, ignored: bool, code: int) -> tuple[list[str], Plan]:
    """Stop a study in its second step; gives its command line and its plan."""
    words = [sys.executable, "-m", "realign_plugin.cli", "study", str(config)]
    process = subprocess.Popen(
        words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=_ignoring if ignored else None,
    )  # fmt: skip
    root = config.parent / "run"
    try:
        _wait_for(root / "pids", process)
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert error.strip().splitlines()[-1] == (
        f"study: stopped by {signal.Signals(number).name}; the same command goes on"
    )
    assert "Traceback" not in error
    assert not _lives(int((root / "pids").read_text()))
    plan = Plan.load(root / "plan.json")
    assert plan.done("quick") is not None
    assert plan.done("slow") is None
    assert not list((root / "steps").glob("*.failed.json"))
    return words, plan


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_in_the_background_that_is_stopped_leaves_no_process(config: Path, number: int, code: int) -> None:
    stop(config, number, True, code)


def test_a_study_that_is_stopped_goes_on(config: Path) -> None:
    words, plan = stop(config, signal.SIGINT, False, 130)
    root = config.parent / "run"
    (root / "let").touch()
    todo = subprocess.run([*words, "-n"], capture_output=True, text=True, check=True).stdout
    assert "quick: echo" in todo
    assert "(done)" in todo
    # The next step fails, as there are no prompts; until then all is done, and nothing twice.
    again = subprocess.run([*words, f"evaluate.metadata.safety_data={root}"], capture_output=True, text=True)
    assert again.returncode == 2, again.stderr
    assert plan.done("slow") is not None
    assert (root / "quick").read_text() == "x\n"


def test_a_process_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    script = f"""
import signal, sys
from realign_plugin.lab.study import stopping
stopping.PATIENCE = 1.0
deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
deaf += "; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
try:
    with stopping.stoppable():
        stopping.run_group([sys.executable, "-c", "import sys; " + deaf, {str(tmp_path / "pid")!r}])
except stopping.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    process = subprocess.Popen([sys.executable, "-c", script], text=True, stderr=subprocess.PIPE)
    _wait_for(tmp_path / "pid", process)
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert not _lives(int((tmp_path / "pid").read_text()))
