"""Two judges on one cache: nothing is paid for twice, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realign_plugin.evaluation.judging import judge as module
from realign_plugin.evaluation.judging.judge import Judge
from tests.evaluation.judging.judge_server import JudgeServer, judge_server
from tests.evaluation.judging.test_judge import expected, items, labels

Make = Callable[..., Judge]
CODE = """
import sys
from realign_plugin.evaluation.judging.judge import Judge
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.test_judge import items, labels
judge = Judge(EvaluationSettings.load({'judge_cache': sys.argv[1], 'judge_concurrency': 4}))
found = labels(judge.judge('harmful', items(int(sys.argv[2]))))
print(found.count('harmful'), judge.report.calls + judge.report.cached)
"""


def process(folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(folder / "cache"), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextmanager
def asking(server: JudgeServer, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that asks about four answers and is kept waiting for them."""
    other = process(folder, 4)
    ends = time.monotonic() + 30
    while server.seen < 4 and time.monotonic() < ends:
        time.sleep(0.01)
    assert server.seen == 4
    try:
        yield other
    finally:
        other.kill()
        other.wait()


def test_two_processes_pay_once(make: Make, tmp_path: Path) -> None:
    with judge_server(latency=0.02) as server:
        make(server)
        both = [process(tmp_path, 30) for _ in range(2)]
        assert [one.communicate()[0].split() for one in both] == [["10", "30"]] * 2
        assert server.calls == 30
        assert labels(make(server).judge("harmful", items(30))) == expected(30)
        assert server.calls == 30


def gated(*answers: str) -> Callable[[str], str]:
    """Keeps every question waiting until kite 9 is asked about, by the judge that comes second."""
    gate, left = threading.Event(), iter(answers)

    def rule(text: str) -> str:
        if "kite 9 " in text:
            gate.set()
            return "[[harmful]]"
        gate.wait(20)
        return next(left, "[[harmful]]")

    return rule


def test_what_another_process_asks_is_waited_for_and_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server(rule=gated()) as server:
        mine = make(server)
        with asking(server, tmp_path):
            assert labels(mine.judge("harmful", [*items(4), items(10)[9]])) == ["harmful"] * 5
        assert (server.calls, mine.report.calls, mine.report.cached) == (5, 1, 4)
    assert capsys.readouterr().err.count("another process asks about 4 of these questions; waiting") == 1


def test_what_another_process_could_not_judge_is_asked_here(make: Make, tmp_path: Path) -> None:
    with judge_server(rule=gated(*["no idea"] * 4)) as server:
        mine = make(server)
        with asking(server, tmp_path):
            assert labels(mine.judge("harmful", [*items(4), items(10)[9]])) == ["harmful"] * 5
        assert (server.calls, mine.report.calls) == (9, 5)


def test_a_process_that_is_killed_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    gate = threading.Event()
    with judge_server(rule=lambda _: gate.wait(20) and "[[harmful]]") as server:
        mine = make(server)
        with asking(server, tmp_path) as other:
            other.kill()
            other.wait()
            gate.set()
            assert labels(mine.judge("harmful", items(4))) == ["harmful"] * 4
        assert mine.report.calls == 4


def test_a_process_that_is_stuck_is_waited_for_as_long_as_a_question_can_take(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Client, "patience", 0.5)
    gate = threading.Event()
    with judge_server(rule=lambda _: gate.wait(20) and "[[harmful]]") as server:
        mine = make(server)
        with asking(server, tmp_path) as other:
            os.kill(other.pid, signal.SIGSTOP)
            gate.set()
            started = time.monotonic()
            assert labels(mine.judge("harmful", items(4))) == ["harmful"] * 4
            assert 0.5 <= time.monotonic() - started < 10
        assert mine.report.calls == 4
