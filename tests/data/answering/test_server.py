"""What two models at an OpenAI-compatible server answer, as on-policy data."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.data.answering import server as server_answering
from realign_plugin.data.answering.server import Server, ServerAnswerer
from realign_plugin.data.on_policy import on_policy
from realign_plugin.data.on_policy_checks import CASES
from realign_plugin.data.on_policy_options import Amounts, Models, Sources
from realign_plugin.data.recipe import Request
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.evaluation.judging.replies import answer_of
from tests.data.test_on_policy import files, run
from tests.data.two_models import HELPS, REFUSES, rows, taken, usual
from tests.evaluation.judging.faults import Fault
from tests.evaluation.judging.judge_server import JudgeServer, judge_server

SECRET = "sk-unmistakable-0123456789"
WORD = "Answer with one word."
RULES = {"tuned": partial(usual, "fine_tuned"), "safe": partial(usual, "aligned")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(server_answering, "RETRIES", 2)


def serve(**options: Any) -> Any:
    def one_word(rule: Callable[[str], str]) -> Callable[[str], str]:
        return lambda text: "Yes." if text == WORD else rule(text)

    rules = {name: one_word(rule) for name, rule in RULES.items()}
    return judge_server(**({"rules": rules, "models": ("safe", "tuned")} | options))


def make(folder: Path, sources: Sources, server: JudgeServer, **options: Any) -> Any:
    at = Server("safe", "tuned", server.url, options.pop("concurrency", 32))
    models = Models(server=at, **taken(options, Models))
    amounts = Amounts(**{"batch_size": 4, "max_tokens": 20, "skill_max_tokens": 30} | taken(options, Amounts))
    return on_policy(Request(folder, **{"name": "on_policy"} | options), sources, models, amounts)


def wanted(server: JudgeServer) -> list[dict[str, Any]]:
    return [body for body in server.bodies if body["messages"][-1]["content"] != WORD]


def test_both_models_are_asked_and_nothing_is_loaded(tmp_path: Path, asked: Sources) -> None:
    with serve() as server:
        result = make(tmp_path / "data", asked, server)
    assert {kind: [count[case] for case in CASES] for kind, count in result.cases.items()} == {
        "harmful": [2, 4, 1, 3],
        "benign": [2, 4, 1, 3],
    }
    assert [row["output"] for row in rows(tmp_path / "data", "on_policy")[:10]] == [REFUSES] * 6 + [HELPS] * 4
    assert len(rows(tmp_path / "data", "on_policy_skill")) == 4
    card = json.loads((tmp_path / "data" / "on_policy.card.json").read_text())
    assert card["models"] == {"aligned_name": "safe", "adapter_name": "tuned"}
    bodies = wanted(server)
    assert {(body["model"], body["max_tokens"]) for body in bodies} == {("safe", 20), ("tuned", 20), ("tuned", 30)}
    assert [sum(body["model"] == name for body in bodies) for name in ("safe", "tuned")] == [20, 24]
    assert {body["temperature"] for body in bodies} == {0}
    assert server.headers == {f"Bearer {SECRET}"}
    assert not any(SECRET.encode() in content for content in files(tmp_path / "data").values())


def test_the_whole_chat_is_sent() -> None:
    prompt = Prompt("and then 1 ?", "here 7 ?", "be brief", (("first ?", "yes"),))
    with serve() as server:
        answerer = ServerAnswerer(Server("safe", "tuned", server.url), 8)
        assert answerer.answers("fine_tuned", [prompt], 8) == [HELPS]
    (body,) = wanted(server)
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first ?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "and then 1 ?\nhere 7 ?"},
    ]


@pytest.mark.parametrize("most", [1, 6])
def test_many_are_asked_at_once(tmp_path: Path, asked: Sources, most: int) -> None:
    with serve(latency=0.03) as server:
        make(tmp_path / "data", asked, server, concurrency=most, batch_size=None)
    assert server.most_at_once == most


def test_answers_are_in_order_whoever_comes_first() -> None:
    def slow(text: str) -> str:
        if text.endswith("0 ?"):
            time.sleep(0.1)
        return text.upper()

    prompts = [Prompt(f"say {number} ?") for number in range(8)]
    with serve(rules={"safe": slow}) as server:
        answerer = ServerAnswerer(Server("safe", "tuned", server.url), 8)
        assert answerer.answers("aligned", prompts, 8) == [prompt.text.upper() for prompt in prompts]


@pytest.mark.parametrize("answers", [1, 10, 27, 43])
def test_a_stopped_run_goes_on_at_another_address_to_the_same_files(
    tmp_path: Path, asked: Sources, answers: int
) -> None:
    with serve() as server:
        make(tmp_path / "whole", asked, server)
    with (
        serve(dies_after=2 + answers) as first,
        pytest.raises(UserError, match=r"--server: .*cannot be reached .*; the same command goes on where it was"),
    ):
        make(tmp_path / "data", asked, first)
    kept = (tmp_path / "data" / "on_policy.answers.jsonl").read_text().count('"batch":')
    assert kept == answers // 4
    with serve() as second:
        make(tmp_path / "data", asked, second, concurrency=3)
    assert len(wanted(second)) == 44 - 4 * kept
    assert files(tmp_path / "data") == files(tmp_path / "whole")
    make(tmp_path / "data", asked, second)  # which is no longer there, and not needed
    assert files(tmp_path / "data") == files(tmp_path / "whole")


def test_answers_of_other_names_or_adapters_are_not_mixed_in(lab: Path, tmp_path: Path, asked: Sources) -> None:
    with serve() as server:
        make(tmp_path / "data", asked, server, adapter=lab / "task1")
        card = json.loads((tmp_path / "data" / "on_policy.card.json").read_text())
        assert set(card["models"]["adapter"]) == {"name", "sha256"}
        with pytest.raises(UserError, match="has answers of other models or settings"):
            make(tmp_path / "data", asked, server, adapter=lab / "task2")


@pytest.mark.parametrize("fault", [None, Fault(None), Fault(b"{}", 503), Fault(b'{"error": {"code": 429}}')])
def test_what_may_help_is_sent_again(tmp_path: Path, asked: Sources, fault: Fault | None) -> None:
    seen: set[str] = set()

    def once(text: str) -> Fault | None:
        if fault is None or "kite" not in text or text in seen:
            return None
        seen.add(text)
        return fault

    with serve(every=3 if fault is None else 0, faults=once) as server:
        make(tmp_path / "data", asked, server)
    assert len(rows(tmp_path / "data", "on_policy")) == 20
    assert len(wanted(server)) == 44
    assert server.seen > 46 if fault is None else len(seen) == 10


def test_a_prompt_that_the_server_cannot_take_is_left_out(
    tmp_path: Path, asked: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(fails="kite 3") as server:
        make(tmp_path / "data", asked, server)
    assert len(rows(tmp_path / "data", "on_policy")) == 19
    error = capsys.readouterr().err
    assert "--aligned-name: 'safe' does not answer 1 of 4 prompts (BadRequestError 400 1); they are left out" in error
    assert "kite" not in error


USUAL = {"--aligned-name": "safe", "--adapter-name": "tuned"}


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"key": "another"}, {}, r"--server: .* does not take the key in OPENAI_API_KEY .*401.*, expected a valid"),
        ({}, {"--aligned-name": "safer"}, r"--aligned-name: 'safer' is unknown to .*; it lists safe, tuned"),
        ({}, {"--adapter-name": "tune"}, r"--adapter-name: 'tune' is unknown to .*; correct it, or --server"),
        ({"lists_models": False}, {"--adapter-name": "x"}, r"--adapter-name: 'x' is unknown to .*end in /v1\)$"),
        ({}, {"--server": "http://127.0.0.1:9/v1"}, r"--server: http://127.0.0.1:9/v1 cannot be reached"),
        ({}, {"--server": "localhost:8000"}, r"--server: 'localhost:8000' is not an address"),
        ({}, {"--adapter-name": "safe"}, r"--adapter-name: 'safe' is --aligned-name as well"),
        ({}, {"--adapter-name": None}, r"--adapter-name: not given, expected the names of both models"),
        ({}, {"--aligned-name": None}, r"--aligned-name: not given, expected the names of both models"),
        ({}, {"--server": None}, r"--server: not given, and OPENAI_BASE_URL is not set"),
        ({}, {"--server": None, **dict.fromkeys(USUAL)}, r"--model: not given, expected --model and --adapter"),
        ({}, {"--adapter": "nowhere"}, r"--adapter: "),
        ({"fails": "one word"}, {}, r"--aligned-name: 'safe' at .* does not answer \(BadRequestError 400\)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    tmp_path: Path,
    asked: Sources,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    change: dict[str, Any],
    message: str,
) -> None:
    with serve(**options) as server:
        words = {"--server": server.url, **USUAL, "--prompts": asked.prompts[0], "--validation": 0} | change
        command = [word for pair in words.items() if pair[1] is not None for word in pair]
        assert run("data", "on-policy", tmp_path / "data", *command) == 2
        assert wanted(server) == []
    (error,) = capsys.readouterr().err.strip().split("\n")
    assert re.search(message, error), error
    assert SECRET not in error


def test_the_command_takes_the_address_of_the_environment(
    tmp_path: Path, asked: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [word for pair in USUAL.items() for word in pair]
    with serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        command = ["data", "on-policy", tmp_path / "data", *names, "--prompts", asked.prompts[0], "--validation", 0]
        assert run(*command) == 0
    assert len(wanted(server)) == 20
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="--server: needs OPENAI_API_KEY, which is not set"):
        make(tmp_path / "other", asked, server)


def test_models_that_leave_nothing_to_repair(tmp_path: Path, asked: Sources) -> None:
    for rule, message in (
        (lambda _: HELPS, "--aligned-name: the aligned model refuses 0 of 10 harmful prompts"),
        (lambda _: REFUSES, "--adapter-name: it refuses the same 10 of 10 harmful prompts"),
    ):
        with serve(rules={}, rule=rule) as server, pytest.raises(UserError, match=message):
            make(tmp_path / message[2:7], asked, server)


@pytest.mark.parametrize(
    ("message", "ending", "expected"),
    [
        ({"content": " yes \n"}, "stop", "yes"),
        ({"content": "as far as it"}, "length", "as far as it"),
        ({"content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}, "stop", "one two"),
        ({"content": "yes", "reasoning_content": "hm\n"}, "stop", "<think>\nhm\n</think>\n\nyes"),
        ({"content": None, "reasoning": "hm"}, "length", "<think>\nhm"),
        ({"content": None, "refusal": "I will not."}, "stop", "I will not."),
        ({"content": None}, "stop", ""),
        ({"content": "half an"}, "content_filter", None),
        ({"content": 7}, "stop", None),
        (None, "stop", None),
    ],
)
def test_what_a_reply_says(message: Any, ending: str, expected: str | None) -> None:
    assert answer_of({"choices": [{"message": message, "finish_reason": ending}]}) == expected
