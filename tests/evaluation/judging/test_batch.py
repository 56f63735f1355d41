"""The Batch API: one file there, one file back, found again after a run that broke off."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.evaluation.judging import batch
from realign_plugin.evaluation.judging.judge import Judge
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.judge_server import JudgeServer, judge_server
from tests.evaluation.judging.test_judge import expected, items, labels

Make = Callable[..., Judge]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A judge that asks in batches and looks at them often."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-batch")
    monkeypatch.setattr(batch, "POLL", (0.01, 0.02))

    def judge(server: JudgeServer, **settings: Any) -> Judge:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = {"judge_cache": str(tmp_path / "cache"), "judge_retries": 0, "judge_batch": True}
        return Judge(EvaluationSettings.load(options | settings))

    return judge


def interrupt(judge: Judge, count: int) -> None:
    """Break off while the batch is under way."""

    async def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realign_plugin.evaluation.judging.batch.asyncio.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judge.judge("harmful", items(count))


def test_one_request_by_itself_and_the_rest_as_a_batch(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server() as server:
        judge = make(server)
        assert labels(judge.judge("harmful", items(7))) == expected(7)
        assert (server.polls, len(server.batches), judge.report.calls) == (1, 1, 7)
        assert (judge.report.prompt_tokens, judge.report.completion_tokens) == (70, 14)
        assert "batch_0: in_progress, 0/6" in capsys.readouterr().err
        assert labels(make(server).judge("harmful", items(7))) == expected(7)
        assert labels(make(server, judge_batch=False).judge("harmful", items(7))) == expected(7)
        assert (len(server.batches), server.calls) == (1, 7)


def test_a_single_answer_needs_no_batch(make: Make) -> None:
    with judge_server() as server:
        assert labels(make(server).judge("harmful", items(1))) == expected(1)
        assert not server.batches


def test_a_batch_that_was_left_is_found_again(make: Make) -> None:
    with judge_server() as server:
        interrupt(make(server), 5)
        assert labels(make(server).judge("harmful", items(5))) == expected(5)
        assert (len(server.batches), server.calls) == (1, 5)


def test_it_is_found_again_where_the_first_request_gave_no_verdict(make: Make) -> None:
    with judge_server(rule=lambda _: "no idea") as server:
        interrupt(make(server), 5)
        assert labels(make(server).judge("harmful", items(5))) == [None] * 5
        assert len(server.batches) == 1


def test_a_batch_that_the_server_forgot_is_sent_anew(make: Make) -> None:
    with judge_server() as server:
        interrupt(make(server), 5)
        server.batches["another"] = server.batches.pop("batch_0")
        assert labels(make(server).judge("harmful", items(5))) == expected(5)
        assert len(server.batches) == 2


def test_lines_that_failed_stay_unjudged(make: Make) -> None:
    with judge_server() as server:
        make(server).judge("harmful", items(1))
        server.fails = "kite 3 "
        judge = make(server)
        verdicts = judge.judge("harmful", items(7))
        failed = [verdict.reason for verdict in verdicts if verdict.label is None]
        assert failed in (["error: batch line 400"], ["error: BadRequestError 400"])
        server.fails = None
        assert labels(make(server).judge("harmful", items(7))) == expected(7)
        assert server.calls == 7


def test_the_batch_is_sent_without_what_the_model_does_not_take(make: Make) -> None:
    with judge_server(refuses=("temperature", "max_tokens")) as server:
        assert labels(make(server).judge("harmful", items(4))) == expected(4)
        assert "max_completion_tokens" in server.files["in"]
        assert "temperature" not in server.files["in"]


def test_two_at_once_send_one_batch(make: Make) -> None:
    with judge_server(latency=0.02) as server, ThreadPoolExecutor(2) as pool:
        judges = [make(server), make(server)]
        found = list(pool.map(lambda judge: labels(judge.judge("harmful", items(6))), judges))
        assert found == [expected(6)] * 2
        assert (len(server.batches), server.calls) == (1, 6)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no JSON",
        b"[" * 100_000,
        b"\xff",
        b"17",
        b'{"custom_id": [1]}',
        b'{"response": null}',
        b'{"response": []}',
    ],
)
def test_one_strange_line_costs_one_verdict(make: Make, line: bytes) -> None:
    with judge_server() as server:
        judge = make(server)
        server.spoils = line
        found = labels(judge.judge("harmful", items(7)))
        assert found.count(None) == 1
        assert all(label in (None, right) for label, right in zip(found, expected(7), strict=True))


@pytest.mark.parametrize("entry", [{}, {"id": 3}, {"id": "b", "status": None}, {"id": "b", "status": ["x"]}])
def test_a_batch_that_is_none(make: Make, entry: dict[str, Any]) -> None:
    with judge_server() as server:
        server.batch = lambda _: entry  # type: ignore[method-assign]
        judge = make(server)
        assert labels(judge.judge("harmful", items(3))).count(None) == 2
        assert "malformed answer" in str(judge.report.fatal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offers_batches": False}, "judge_batch: .* did not take the batch .*leave judge_batch out"),
        ({"models": ("other",)}, "judge_model: 'gpt-3.5-turbo' is unknown"),
        ({"key": "another"}, "does not take the key in OPENAI_API_KEY"),
    ],
)
def test_a_server_that_takes_no_batch(make: Make, options: dict[str, Any], message: str) -> None:
    with judge_server(**options) as server:
        judge = make(server)
        verdicts = judge.judge("harmful", items(4))
        assert sum(verdict.label is not None for verdict in verdicts) <= 1
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(judge.report.fatal)
        assert not server.batches


def test_a_guard_is_asked_in_its_own_form(make: Make) -> None:
    guard = "Llama-Guard-3-8B"
    with judge_server(models=(guard,), rule=lambda text: "unsafe\nS1" if "mix" in text else "safe") as server:
        judge = make(server, judge_model=guard)
        assert labels(judge.judge("harmful", items(7))) == expected(7)
        assert (len(server.batches), judge.report.calls) == (1, 7)
        assert {tuple(m["role"] for m in body["messages"]) for body in server.bodies} == {("user", "assistant")}
        assert {body["max_tokens"] for body in server.bodies} == {32}
