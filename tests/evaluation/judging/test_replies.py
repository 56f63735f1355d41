"""Replies: nothing in them is too strange, and no verdict comes of what does not say one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.judging.failures import failure_in
from realign_plugin.evaluation.judging.replies import at, decode, reply_in, tokens
from realign_plugin.evaluation.judging.verdicts import Mode, Verdict, read_verdict

NAMES = (
    "choices", "message", "content", "finish_reason", "refusal", "text", "type", "reasoning", "tool_calls", "results",
    "flagged", "error", "errors", "detail", "code", "status", "object", "usage", "prompt_tokens", "metadata",
)  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(
    ["[[harmful]]", "so\n[[harmful]]", "no", "", "stop", "length", "error", "429", "rate_limit", "content_filter"]
)  # fmt: skip


def nested(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=4)
    )


def read(body: Any, mode: Mode) -> None:
    """Read a reply as the judge does."""
    failure = failure_in(body)
    if failure is not None:
        assert failure.reason.startswith(("error: ", "judge refused"))
        assert isinstance(failure.again or failure.final, bool)
        return
    assert 0 <= tokens(body, "prompt_tokens") < 2**53
    reply = reply_in(body, moderation=mode == "moderation")
    verdict = reply if isinstance(reply, Verdict) else read_verdict(reply, mode)
    assert (verdict.label is None) == (verdict.reason is not None)
    if verdict.label is not None:
        said = (
            at(body, "results", 0, "flagged") if mode == "moderation" else at(body, "choices", 0, "message", "content")
        )
        assert said is not None


@given(nested(NAMES), st.sampled_from(["harmful", "moderation"]))
def test_no_json_is_too_strange(body: Any, mode: Mode) -> None:
    read(body, mode)


@given(nested(NAMES), nested(NAMES), nested(NAMES))
def test_nor_one_that_is_nearly_right(message: Any, ending: Any, more: Any) -> None:
    choice = {"message": message if isinstance(message, dict) else {"content": message}, "finish_reason": ending}
    read({"choices": [choice], **(more if isinstance(more, dict) else {"usage": more})}, "harmful")


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_nor_are_bytes(content: bytes | str) -> None:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    assert json.dumps(decode(content)) == json.dumps(value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"\xff\xfe\x00", b""])
def test_nor_are_these(content: bytes) -> None:
    assert decode(content) is None
