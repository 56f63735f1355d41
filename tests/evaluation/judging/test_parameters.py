"""Refused parameters: in whatever shape a server says so, and never because it repeats the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.judging.failures import RequestError
from realign_plugin.evaluation.judging.judge import Judge
from realign_plugin.evaluation.judging.parameters import not_taken
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.judging.test_judge import expected, items, labels

SENT = ("temperature", "seed", "max_tokens")
PROMPT = "why is the seed of a kite not supported at this temperature ?\nUnsupported parameter: 'max_tokens' they say"
UNSUPPORTED = "Unsupported parameter: 'seed' is not supported with this model."

SHAPES: dict[str, tuple[int | None, Any]] = {
    "OpenAI": (400, {"error": {"message": UNSUPPORTED, "param": "seed", "code": "unsupported_parameter"}}),
    "by its code and its name alone": (
        400,
        {"error": {"message": "no", "param": "seed", "code": "unknown_parameter"}},
    ),
    "by its name alone": (400, {"error": {"message": "no", "param": "seed"}}),
    "by its code, in words": (400, {"error": {"message": "seed: no", "code": "unsupported_parameter"}}),
    "a list": (400, [{"error": {"message": UNSUPPORTED, "code": 400, "status": "INVALID_ARGUMENT"}}]),
    "a text": (400, {"error": UNSUPPORTED}),
    "a detail": (422, {"detail": "Unrecognized request argument supplied: seed"}),
    "details": (
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs", "input": 0}]},
    ),
    "flat": (400, {"object": "error", "message": "`seed` is not allowed", "type": "BadRequestError", "code": 400}),
    "a message": (400, {"message": "unknown field `seed`"}),
    "errors": (400, {"errors": [{"message": "seed is deprecated for this model"}]}),
    "inside": (
        400,
        {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps({"error": UNSUPPORTED})}}},
    ),
    "JSON in a text": (400, json.dumps({"error": {"message": UNSUPPORTED}})),
    "a plain text": (400, "seed: Extra inputs are not permitted"),
    "Python's repr": (
        400,
        {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs'}]"},
    ),
    "a TypeError": (500, {"detail": "create() got an unexpected keyword argument 'seed'"}),
    "in a reply": (None, {"error": {"message": UNSUPPORTED}}),
    "with a list of others": (400, {"error": f"{UNSUPPORTED} Supported are temperature, max_tokens."}),
}

OTHERS: dict[str, tuple[int | None, Any]] = {
    "the prompt": (400, {"error": {"message": f"Invalid prompt: {PROMPT}"}}),
    "the prompt alone": (400, PROMPT),
    "the prompt with other breaks": (400, {"error": {"message": f"Not allowed: {json.dumps(PROMPT)}"}}),
    "a part of the prompt": (400, {"error": {"message": f"unsupported input: '…{PROMPT[12:50]}…'"}}),
    "the prompt in other fields": (
        400,
        {"error": {"message": "not allowed", "input": PROMPT, "ctx": {"seed": "seed"}}},
    ),
    "the request": (400, {"error": "unsupported image", "request": {"temperature": 0, "seed": 0}}),
    "too long": (400, {"error": {"message": "this prompt is too long for max_tokens", "param": "max_tokens"}}),
    "too large": (400, {"error": "max_tokens must be at least 1, got -37"}),
    "another name": (400, {"error": "Unsupported parameter: 'reseed' and seed_all"}),
    "another status": (429, {"error": UNSUPPORTED}),
    "no body": (400, None),
    "deep": (400, {"error": {"error": {"error": {"error": {"error": {"error": {"error": UNSUPPORTED}}}}}}}),
    "other types": (400, {"error": {"message": ["seed"], "param": {"seed": 1}, "code": [1]}, "detail": 3}),
}


def refused(status: int | None, body: Any) -> list[str]:
    return not_taken(RequestError("x", status, body, inside=status is None), SENT, PROMPT)


@pytest.mark.parametrize("name", SHAPES)
def test_what_names_a_parameter(name: str) -> None:
    assert refused(*SHAPES[name]) == ["seed"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not(name: str) -> None:
    assert refused(*OTHERS[name]) == []


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ("temperature must be strictly positive", ["temperature"]),
        (
            "'temperature' does not support 0 with this model. Only the default (1) value is supported.",
            ["temperature"],
        ),
        ("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", ["max_tokens"]),
        ("Unsupported parameters: temperature, seed", ["temperature", "seed"]),
    ],
)
def test_what_servers_say(message: str, names: list[str]) -> None:
    assert refused(400, {"error": {"message": message}}) == names


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["seed", "not supported", PROMPT, "", "loc"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "message", "param", "loc", "code", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_body_is_too_strange(body: Any) -> None:
    error = RequestError("x", 400, body)
    assert set(not_taken(error, SENT, PROMPT)) <= set(SENT)
    assert (error.reason, error.again) in [("error: x 400", False), ("judge refused", False)]


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_left_out_once_that_has_helped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, body = SHAPES[name]
    answer = status or 200, body.encode() if isinstance(body, str) else body
    with judge_server(refuses=("seed",), refusal=lambda *_: answer) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        judge = Judge(EvaluationSettings.load({"judge_cache": str(tmp_path), "judge_concurrency": 1}))
        assert labels(judge.judge("harmful", items(3))) == expected(3)
        assert judge.client.parameters(512) == {"temperature": 0.0, "max_tokens": 512}
        assert server.seen == 4
    assert capsys.readouterr().err.count("does not take seed; it is asked without") == 1


def test_it_is_sent_again_where_leaving_it_out_did_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(refuses=("model",), refusal=lambda *_: (400, {"error": UNSUPPORTED})) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        judge = Judge(EvaluationSettings.load({"judge_cache": str(tmp_path)}))
        assert judge.judge("harmful", items(1))[0].reason == "error: BadRequestError 400"
        assert judge.client.parameters(512) == {"temperature": 0.0, "seed": 0, "max_tokens": 512}
        assert server.seen == 2
