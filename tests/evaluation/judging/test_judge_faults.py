"""Whatever one reply does: its verdict is right, or unjudged with its reason; the others are kept; in bounded time."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.evaluation.judging import client
from realign_plugin.evaluation.judging.judge import Item, Judge
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.judging.verdicts import Mode, Verdict
from tests.evaluation.judging.faults import DEEP, FINAL, GOOD, LATE, MALFORMED, READ, UNJUDGED, Fault, error
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.judging.test_judge import expected, items, labels

Make = Callable[..., Judge]
NUMBERS = itertools.count()
TIMEOUT = 0.7
BOUND = 5.0
"""Seconds for a batch with one fault in it: one timeout, and what a busy machine needs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: to make one takes longer than a batch."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A judge that tries again at once, if at all."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-faults")
    monkeypatch.setattr(client, "pause", lambda _: 0.01)

    def judge(server: Any, **settings: Any) -> Judge:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = {"judge_cache": str(folder), "judge_retries": 0, "judge_timeout": 2 * BOUND}
        return Judge(EvaluationSettings.load(options | settings))

    return judge


def fresh(count: int) -> list[Item]:
    """Answers that are in no cache."""
    number = next(NUMBERS)
    return [replace(item, answer=f"{item.answer} ({number})") for item in items(count)]


def verdicts(make: Make, fault: Fault, mode: Mode = "harmful", **settings: Any) -> tuple[list[Verdict], Judge]:
    """A batch of four answers, the second of which meets a fault."""
    with judge_server(faults=lambda text: fault if "kite 1 " in text or "fold it 1" in text else None) as server:
        judge = make(server, **settings)
        started = time.monotonic()
        found = judge.judge(mode, fresh(4))
        assert time.monotonic() - started < BOUND
    json.dumps(judge.report.to_dict(), allow_nan=False)
    return found, judge


def test_there_are_sixty_kinds_at_least() -> None:
    assert len(READ) + len(UNJUDGED) + len(FINAL) >= 60


@pytest.mark.parametrize("name", READ)
def test_a_reply_that_can_be_read(make: Make, name: str) -> None:
    found, judge = verdicts(make, READ[name])
    assert labels(found) == ["harmful", "harmful", "unharmful", "harmful"]
    assert 30 <= judge.report.prompt_tokens < 2**53
    assert judge.report.failure is None


@pytest.mark.parametrize("name", UNJUDGED)
def test_a_reply_that_cannot_be_read(make: Make, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    fault, reason = UNJUDGED[name]
    found, judge = verdicts(make, fault, judge_timeout=TIMEOUT if reason == LATE else 2 * BOUND)
    assert labels(found) == ["harmful", None, "unharmful", "harmful"]
    assert found[1].reason == reason
    assert judge.report.failure is None
    assert f"judge (harmful): 1 of 4 answers unjudged (1 {reason})" in capsys.readouterr().err


def test_a_reply_that_upsets_the_client_itself(make: Make) -> None:
    found, judge = verdicts(make, Fault(b"41", 400, {"content-type": "text/plain; charset=hex"}))
    assert labels(found) == ["harmful", None, "unharmful", "harmful"]
    assert str(found[1].reason).startswith("error: ")
    assert judge.report.failure is None


@pytest.mark.parametrize("name", FINAL)
def test_a_reply_after_which_nothing_is_sent(make: Make, name: str) -> None:
    fault, message = FINAL[name]
    found, judge = verdicts(make, fault, judge_concurrency=1, judge_retries=5)
    assert labels(found) == ["harmful", None, None, None]
    assert message in str(judge.report.fatal)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"results": null}', b'{"results": [[]]}', b'{"results": [{"flagged": "false"}]}',
        b'{"results": [{"flagged": 1}]}', b'{"results": {"flagged": true}}', DEEP, GOOD,
    ],
)  # fmt: skip
def test_a_moderation_that_cannot_be_read(make: Make, body: bytes) -> None:
    found, _ = verdicts(make, Fault(body), "moderation")
    assert labels(found) == ["harmful", None, "unharmful", "harmful"]
    assert found[1].reason == MALFORMED


@pytest.mark.parametrize(
    "fault",
    [
        Fault(None), Fault(GOOD, before=-9), Fault(GOOD, before=0, then="hang"), Fault(GOOD, before=30, then="drip"),
        Fault(b"", 408), Fault(b"", 409), Fault(b"", 429), Fault(b"", 429, {"retry-after": "0.01"}), Fault(b"", 500),
        Fault(b"", 503), Fault(b"", 529), error({"error": {"code": 429}}), error({"error": {"code": "429"}}),
        error([{"error": {"status": "RESOURCE_EXHAUSTED"}}]), error({"error": "Too many requests"}),
        error({"error": {"type": "overloaded_error"}}), error({"detail": "Service unavailable"}),
        error({"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}),
    ],
)  # fmt: skip
def test_what_may_pass_is_asked_again(make: Make, fault: Fault) -> None:
    faults = iter([fault, fault])
    with judge_server(faults=lambda text: next(faults, None) if "kite 1 " in text else None) as server:
        judge = make(server, judge_retries=2, judge_timeout=TIMEOUT if fault.then else 2 * BOUND)
        assert labels(judge.judge("harmful", fresh(4))) == expected(4)
        assert next(faults, None) is None


def test_what_will_not_pass_is_not_asked_again(make: Make) -> None:
    for fault in (
        Fault(b"", 400),
        error({"error": {"code": "insufficient_quota"}}, 429),
        Fault(b"", 402),
        Fault(b"{}"),
    ):
        with judge_server(faults=lambda _, fault=fault: fault) as server:
            make(server, judge_retries=5).judge("harmful", fresh(1))
            assert server.seen == 1
