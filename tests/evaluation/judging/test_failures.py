"""Failures: when to ask again, and what is said."""

from __future__ import annotations

import email.utils
import time
from types import SimpleNamespace
from typing import Any

import pytest

from realign_plugin.evaluation.judging.client import LONGEST_PAUSE, pause
from realign_plugin.evaluation.judging.failures import RequestError, failure_of, problem


def told(retry_after: str | None) -> RequestError:
    """The failure of a reply with this header."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    error: Any = RuntimeError()
    error.response, error.status_code = SimpleNamespace(headers=headers, content=b""), 429
    return failure_of(error)


def waits(failure: RequestError, attempt: int) -> float:
    return pause(SimpleNamespace(outcome=SimpleNamespace(exception=lambda: failure), attempt_number=attempt))


def test_the_server_says_when_to_ask_again() -> None:
    assert waits(told("7"), 1) == 7
    assert waits(told("0.25"), 1) == 0.25
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < waits(told(soon), 1) <= 31


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-3", "0", "nan", "inf", "1e9", f"{LONGEST_PAUSE + 1}", "9" * 5000,
               "Mon, 01 Jan 99999 00:00:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 99 Foo 2030 99:99:99 GMT"],
)  # fmt: skip
def test_else_each_pause_is_longer_than_the_one_before(header: str | None) -> None:
    times = [waits(told(header), attempt) for attempt in (1, 2, 3, 4, 50)]
    for low, found in zip((0.5, 1, 2, 4, 8), times, strict=True):
        assert low <= found <= low + 0.25


def test_what_was_sent_is_never_repeated() -> None:
    body = {"error": {"message": "secret prompt", "code": "insufficient_quota"}}
    for status in (None, 400, 401, 402, 404, 500, 503):
        failure = RequestError("Name", status, body)
        assert "secret" not in problem(failure, "m") + str(failure) + repr(failure) + failure.reason
