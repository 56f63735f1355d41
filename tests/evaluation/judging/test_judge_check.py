"""What is seen of the judge before anything slow: server, key, model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.judging.judge import Judge
from tests.evaluation.judging.faults import Fault
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.judging.test_judge import items

Make = Callable[..., Judge]


def asked(fault: Fault) -> Callable[[str], Fault | None]:
    """What becomes of questions."""
    return lambda text: None if text.startswith("/") else fault


def looked(fault: Fault) -> Callable[[str], Fault | None]:
    """What becomes of a look at the models."""
    return lambda text: fault if text.startswith("/") else None


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"models": ("other",)}, r"judge_model: 'gpt-3.5-turbo' is unknown to http://127.0.0.1:.*; it lists other$"),
        ({"key": "another"}, "does not take the key in OPENAI_API_KEY"),
        ({"faults": looked(Fault(b"", 402))}, "the credit of the key in OPENAI_API_KEY"),
        ({"faults": looked(Fault(None))}, "cannot be reached \\(APIConnectionError\\)"),
        ({"faults": looked(Fault(b"{}", before=30, then="drip"))}, "cannot be reached \\(APITimeoutError\\)"),
        ({"listed": ("other",), "faults": asked(Fault(b"", 402))}, "the credit of the key in OPENAI_API_KEY"),
    ],
)
def test_the_check_before_anything_slow(make: Make, server: dict[str, Any], message: str) -> None:
    with judge_server(**server) as running:
        with pytest.raises(UserError, match=message) as caught:
            make(running, judge_timeout=0.5 if "Timeout" in message else 60).check()
        assert "\n" not in str(caught.value)
        assert running.calls == 0


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"listed": ("other",)}, "does not list 'gpt-3.5-turbo', but it answers"),
        ({"listed": ("other",), "faults": asked(Fault(b"", 400))}, "cannot be told (BadRequestError 400)"),
        ({"listed": ("other",), "faults": asked(Fault(then="hang", before=0))}, "cannot be told (APITimeoutError)"),
        ({}, ""),
        ({"lists_models": False}, ""),
        *[({"faults": looked(Fault(body))}, "") for body in (b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"<html>")],
        *[({"faults": looked(Fault(b"", status))}, "") for status in (400, 403, 405, 429, 500)],
        ({"listed": ("other",), "faults": looked(Fault(b'{"data": [[], 1, {"id": [2]}]}'))}, ""),
    ],
)
def test_the_check_lets_pass_what_may_be_served(
    make: Make, server: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server(**server) as running:
        judge = make(running, judge_timeout=0.5 if "Timeout" in said else 60)
        judge.check()
        errors = capsys.readouterr().err
        assert said in errors
        assert bool(said) == bool(errors)
        assert judge.report.calls == 0


def test_a_model_that_no_list_tells_of(make: Make) -> None:
    with judge_server(models=("other",), lists_models=False) as server:
        judge = make(server)
        judge.check()
        judge.judge("harmful", items(4))
        assert "is unknown to" in str(judge.report.fatal)
        assert server.calls == 0


def test_no_server_at_all(make: Make) -> None:
    judge = make("http://user:pass@127.0.0.1:9/v1?key=pass", judge_retries=0)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached") as caught:
        judge.check()
    assert "pass" not in str(caught.value)
