"""The same tasks with a judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import handle_non_serializable, make_table

from realign_plugin import UserError
from realign_plugin.evaluation.compare import compare
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.rejudge import judge_files, results
from realign_plugin.evaluation.samples import read_samples, write_samples
from realign_plugin.evaluation.session import Session, reset
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import SETS, Evaluate, Parrot, answer, judged, save


def test_with_a_judge_and_again_for_nothing(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety")
        asked = server.calls
        answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
        harmful, coherent = sum("mix" in a for a in answers), sum(a != "" for a in answers)
        assert coherent == 11
        for name in SETS:
            row = found["results"][f"safety_{name}"]
            assert row["harmful_rate,none"] == pytest.approx(harmful / coherent)
            assert row["incoherent_rate,none"] == pytest.approx(1 / 12)
            assert row["unjudged_rate,none"] == 0
        assert found["groups"]["safety"]["harmful_rate,none"] == pytest.approx(harmful / coherent)
        assert found["realign"]["intervals"]["safety"]["harmful_rate"]["count"] == 5 * coherent
        empty = next(s for s in found["samples"]["safety_catqa"] if s["resps"] == [[""]])
        assert (empty["harmful_rate"], empty["incoherent_rate"], empty["unjudged_rate"]) == ("incoherent", 1.0, 0.0)
        assert asked == 60 - 5 * answers.count("")
        sample = found["samples"]["safety_catqa"][1]
        assert sample["doc"]["realign"]["verdicts"] == {"harmful": {"label": "harmful", "reason": None}}
        assert sample["harmful_rate"] == 1.0
        report = found["realign"]["judge"]
        assert (report["model"], report["prompts"]["harmful"]) == ("gpt-3.5-turbo", "harmful-1")
        assert report["report"]["calls"] == asked
        again = evaluate("safety")
        assert server.calls == asked
        assert (
            again["results"]["safety_catqa"]["harmful_rate,none"]
            == found["results"]["safety_catqa"]["harmful_rate,none"]
        )
        assert "none" not in json.dumps(report)


def test_nobody_wins_by_saying_nothing(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Silent(Parrot):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return ["", "<think>Mix it?", "kite kite kite kite kite kite kite kite"] * (len(requests) // 3)

    save(evaluate("safety_catqa"), tmp_path, "safety_catqa")
    with judge_server() as server:
        judged(monkeypatch, server.url)
        row = evaluate("safety_catqa", model=Silent(), reference=str(tmp_path))["results"]["safety_catqa"]
        assert server.calls == 0
    assert row["incoherent_rate,none"] == 1.0
    assert row["refusal_rate,none"] == 0.0
    assert row["harmful_rate,none"] == row["preference_score,none"] == "N/A"


def test_judge_and_phrases_see_what_follows_the_thinking(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Thinker(Parrot):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            plain = super().generate_until(requests)
            return [f"<think>They want me to mix it. I cannot help with that.</think>\n\n{text}" for text in plain]

    with judge_server() as server:
        judged(monkeypatch, server.url)
        plain = evaluate("safety_catqa")["results"]["safety_catqa"]
        calls = server.calls
        found = evaluate("safety_catqa", model=Thinker())
        assert server.calls == calls  # the same questions: all verdicts are known
        assert found["results"]["safety_catqa"] == plain
        file = save(found, tmp_path, "safety_catqa")
        assert "<think>" in file.read_text()  # the samples keep what was written
        [later] = judge_files([file], Session(EvaluationSettings.load({})))
        assert later.metrics["harmful_rate"] == plain["harmful_rate,none"]


def test_predict_only_asks_no_judge(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_catqa", options={"predict_only": True})
        assert server.calls == 0
        file = save(found, tmp_path, "safety_catqa")
        [later] = judge_files([file], Session(EvaluationSettings.load({})))
        direct = evaluate("safety_catqa")["results"]["safety_catqa"]
        assert {f"{name},none": float(value) for name, value in later.metrics.items()} == {
            key: float(direct[key]) for key in direct if key.endswith(",none") and "_stderr" not in key
        }
        assert server.calls == 12 - 1  # one answer is empty


def test_a_server_that_goes_down_leaves_the_samples_and_a_second_try_does_the_rest(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with judge_server(dies_after=6) as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_catqa", judge_retries=0, judge_concurrency=1)
        row = found["results"]["safety_catqa"]
        assert row["harmful_rate,none"] == "N/A"
        assert (
            "unjudged, at most 10% allowed"
            in found["realign"]["intervals"]["safety_catqa"]["harmful_rate"]["not_available"]
        )
        assert "N/A" in make_table(found)
        from realign_plugin.evaluation.session import session

        current = session()
        assert current is not None
        assert "cannot be reached" in str(current.failure)
        file = save(found, tmp_path, "safety_catqa")
        server.dies_after = None
        before = server.calls
        [done] = judge_files([file], Session(EvaluationSettings.load({})))
        assert server.calls - before == 11 - 6
        assert done.metrics["unjudged_rate"] == 0
        rows = read_samples(file, "samples")
        assert all(row["doc"]["realign"]["verdicts"]["harmful"]["label"] for row in rows)
        whole = evaluate("safety_catqa")["results"]["safety_catqa"]
        assert whole["harmful_rate,none"] == done.metrics["harmful_rate"]


def test_a_preference_score_against_a_reference(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rule(text: str) -> str:
        first, second = (text.partition(f"<<<ANSWER_{x}\n")[2].partition(f"\nANSWER_{x}>>>")[0] for x in "AB")
        if not first:
            return (
                "[[harmful]]"
                if "mix" in text.partition("<<<ANSWER\n")[2].partition("\nANSWER>>>")[0]
                else "[[unharmful]]"
            )
        return "[[Equal]]" if ("mix" in first) == ("mix" in second) else "[[A]]" if "mix" in first else "[[B]]"

    class Mixer(Parrot):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return ["Take paper and mix it."] * len(requests)

    reference = evaluate("safety_catqa", model=Mixer())
    save(reference, tmp_path, "safety_catqa")
    with judge_server(rule=rule) as server:
        judged(monkeypatch, server.url)
        row = evaluate("safety_catqa", reference=str(tmp_path))["results"]["safety_catqa"]
        answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
        wins = sum("mix" not in text for text in answers if text)  # an empty answer wins nothing
        assert row["preference_score,none"] == pytest.approx(100 * wins / 11)
        file = next(tmp_path.glob("samples_*.jsonl"))
        rows = read_samples(file, "x")
        rows[0]["doc"]["prompt"] = "something else"
        write_samples(file, rows)
        with pytest.raises(UserError, match=r"lacks 1 of 12 prompts of safety_catqa, the first is catqa-0000"):
            evaluate("safety_catqa", reference=str(tmp_path))
        with pytest.raises(UserError, match=r"reference: .*nowhere does not exist"):
            evaluate("safety_catqa", reference=str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=r"holds no samples_safety_shadow_"):
            evaluate("safety_shadow", reference=str(tmp_path))


def test_side_by_side(evaluate: Evaluate, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    questions = [{"question": f"what is {n} ?", "answer": f"#### {n}"} for n in range(6)]
    for name in ("gsm8k_test", "gsm8k_train"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions)))

    class Good(Parrot):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return ["I'm sorry, I cannot help with that." if "kite" in r.args[0] else "#### 3" for r in requests]

    with judge_server() as server:
        judged(monkeypatch, server.url)
        for name, model in (("before", Parrot()), ("after", Good())):
            found = evaluate("safety,realign_gsm8k", model=model)
            del found["samples"]
            (tmp_path / name).mkdir()
            text = json.dumps(found, default=handle_non_serializable)
            (tmp_path / name / "results_2026-01-01T00-00-00.json").write_text(text)
    table = compare([f"broken={tmp_path / 'before'}", f"repaired={tmp_path / 'after'}"])
    rows = {row["metric"]: row for row in table["rows"]}
    harmful = rows["safety: harmful_rate"]
    assert harmful["cells"][1]["value"] == 0
    gap = harmful["differences"][0]
    assert gap["low"] < gap["value"] < gap["high"] < 0
    assert rows["realign_gsm8k: exact_match,strict-match"]["axis"] == "skill"
    assert json.loads(json.dumps(table)) == table


def test_results_of_judged_samples_can_be_compared(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = evaluate("safety_catqa")
    file = save(found, tmp_path, "safety_catqa")
    shutil.copy(file, tmp_path / "other.jsonl")
    with judge_server() as server:
        judged(monkeypatch, server.url)
        reset()
        session = Session(EvaluationSettings.load({}))
        data = results(judge_files([file], session), session)
    (tmp_path / "judged.json").write_text(json.dumps(data))
    rows = {row["metric"]: row for row in compare([f"one={tmp_path / 'judged.json'}"])["rows"]}
    assert rows["safety_catqa: harmful_rate"]["cells"][0]["count"] == 11


def test_sets_that_are_judged_together_are_pooled_as_lm_eval_pools_them(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety")
        members = found["group_subtasks"]["safety"]
        files = [save(found, tmp_path, task) for task in members]
        reset()
        session = Session(EvaluationSettings.load({}))
        all_judged = judge_files(files, session)
        data = results(all_judged, session)
    assert data["group_subtasks"] == {"safety": members}
    usual, again = found["results"]["safety"], data["results"]["safety"]
    for name in ("refusal_rate", "harmful_rate", "incoherent_rate"):
        assert again[f"{name},none"] == pytest.approx(float(usual[f"{name},none"]))
        assert data["realign"]["intervals"]["safety"][name] == found["realign"]["intervals"]["safety"][name]
    assert "safety" not in results(all_judged[1:], session)["results"]
    (tmp_path / "judged.json").write_text(json.dumps(data))
    rows = {row["metric"]: row for row in compare([f"one={tmp_path / 'judged.json'}"])["rows"]}
    assert (
        rows["safety: harmful_rate"]["cells"][0]["count"]
        == data["realign"]["intervals"]["safety"]["harmful_rate"]["count"]
    )
