"""The lm-eval tasks in this process, through lm-eval's own ``simple_evaluate``, answered by a model of our making."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, make_table

from realign_plugin import UserError
from realign_plugin.evaluation.attacks import TEMPLATES
from realign_plugin.evaluation.compare import compare
from realign_plugin.evaluation.rejudge import judge_samples, results
from realign_plugin.evaluation.samples import read_samples, write_samples
from realign_plugin.evaluation.session import Session, reset
from realign_plugin.evaluation.settings import EvaluationSettings
from realign_plugin.evaluation.task_names import tasks_folder
from tests.evaluation.judge_server import judge_server

SETS = ("catqa", "beavertails", "harmfulqa", "shadow", "dangerousqa")
Evaluate = Callable[..., dict[str, Any]]


class Parrot(LM):
    """Refuses every fourth prompt, says nothing to every seventh, and tells the others to mix or to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.asked += [request.args[0] for request in requests]
        return [answer(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return [0.0] * len(requests)


def answer(prompt: str) -> str:
    number = int("".join(c for c in prompt if c.isdigit())[:4] or 0)
    if number % 4 == 0:
        return "I'm sorry, but I cannot help with that."
    return "" if number % 7 == 0 else f"Take paper and {'mix' if number % 2 else 'fold'} it."


def folder_of(root: Path, count: int = 12) -> Path:
    root.mkdir()
    for name in SETS:
        rows = [{"prompt": f"how is kite {n} of {name} made ?"} for n in range(count)]
        (root / f"{name}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "data")


@pytest.fixture
def evaluate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs tasks with the parrot; keywords are metadata."""
    from lm_eval import simple_evaluate

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("REALIGN_JUDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REALIGN_JUDGE_RETRIES", "1")

    def run(
        tasks: str, model: LM | None = None, options: dict[str, Any] | None = None, **metadata: Any
    ) -> dict[str, Any]:
        given = {"safety_data": str(data)} | metadata
        found = simple_evaluate(
            model=model or Parrot(),
            tasks=tasks.split(","),
            task_manager=TaskManager(include_defaults=False, include_path=str(tasks_folder()), metadata=given),
            metadata=given,
            bootstrap_iters=0,
            **(options or {}),
        )
        assert found is not None
        return dict(found)

    return run


def judged(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", url)


def save(found: dict[str, Any], root: Path, task: str) -> Path:
    """The samples of a task as lm-eval writes them."""
    file = root / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl"
    rows = json.loads(json.dumps(found["samples"][task], default=handle_non_serializable))
    write_samples(file, rows)
    return file


def test_the_groups_are_there() -> None:
    manager = TaskManager()
    wanted = {
        "safety",
        "safety_full",
        "safety_sure",
        "safety_catqa_topics",
        "safety_attack",
        "over_refusal",
        "realign_downstream",
    }
    assert wanted <= set(manager.all_groups)
    assert {f"safety_{name}" for name in SETS} | {"safety_catqa_zh"} <= set(manager.all_subtasks)
    alone = TaskManager(include_defaults=False, include_path=str(tasks_folder()))
    assert wanted <= set(alone.all_groups)
    both = TaskManager(include_path=str(tasks_folder()))
    assert set(both.all_groups) == set(manager.all_groups)


def test_a_users_tasks_come_last(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("group: safety\ntask: []\n")
    entry = TaskManager(include_path=str(tmp_path)).task_index["safety"]
    assert Path(str(entry.yaml_path)).parent == tmp_path


def test_without_a_judge(evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate("safety")
    assert capsys.readouterr().err.count("no judge (judge: off)") == 1
    row = found["results"]["safety_catqa"]
    answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
    assert row["refusal_rate,none"] == pytest.approx(sum("sorry" in a for a in answers) / 12)
    assert row["incoherent_rate,none"] == pytest.approx(sum(a == "" for a in answers) / 12)
    assert "harmful_rate,none" not in row
    assert found["groups"]["safety"]["refusal_rate,none"] == pytest.approx(row["refusal_rate,none"])
    interval = found["realign"]["intervals"]["safety"]["refusal_rate"]
    assert (interval["hits"], interval["count"]) == (15, 60)
    assert interval["low"] < 0.25 < interval["high"]
    assert found["realign"]["judge"]["judge"] == "off"
    assert "refusal_rate" in make_table(found)


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
        later = judge_samples(file, Session(EvaluationSettings.load({})))
        assert later.metrics["harmful_rate"] == plain["harmful_rate,none"]


def test_predict_only_asks_no_judge(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_catqa", options={"predict_only": True})
        assert server.calls == 0
        file = save(found, tmp_path, "safety_catqa")
        later = judge_samples(file, Session(EvaluationSettings.load({})))
        direct = evaluate("safety_catqa")["results"]["safety_catqa"]
        assert {f"{name},none": float(value) for name, value in later.metrics.items()} == {
            key: float(direct[key]) for key in direct if key.endswith(",none") and "_stderr" not in key
        }
        assert server.calls == 12 - 1  # one answer is empty


def test_limits_and_other_limits(evaluate: Evaluate) -> None:
    found = evaluate("safety", options={"limit": 5})
    assert found["realign"]["intervals"]["safety"]["refusal_rate"]["count"] == 25


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
        done = judge_samples(file, Session(EvaluationSettings.load({})))
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


def test_agreement_with_a_reference_needs_no_judge(evaluate: Evaluate, tmp_path: Path) -> None:
    class Says(Parrot):
        def __init__(self, texts: list[str]) -> None:
            super().__init__()
            self.texts = texts

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return self.texts[: len(requests)]

    refuses, helps = "Sorry, I can not help with that.", "Take paper and fold it twice, then glue the corners."
    reference = evaluate("safety_catqa", model=Says([refuses] * 6 + [helps] * 5 + [""]))
    assert "agreement,none" not in reference["results"]["safety_catqa"]
    save(reference, tmp_path, "safety_catqa")
    found = evaluate(
        "safety_catqa", model=Says([refuses] * 4 + [helps, "", refuses] + [helps] * 5), reference=str(tmp_path)
    )
    row = found["results"]["safety_catqa"]
    # refused alike 4, helped alike 4; other ways 2; nothing said 1; the last one's reference says nothing
    assert row["agreement,none"] == pytest.approx(8 / 11)
    assert found["realign"]["intervals"]["safety_catqa"]["agreement"]["count"] == 11
    assert found["higher_is_better"]["safety_catqa"]["agreement"]


def test_over_refusal(evaluate: Evaluate, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n},how do i kill process {n} ?,homonyms,{'safe' if n < 8 else 'unsafe'}" for n in range(10)]
    (data / "xstest_prompts.csv").write_text("id,prompt,type,label\n" + "\n".join(lines) + "\n")
    rows = [{"prompt": f"is kite {n} dangerous ?", "category": f"c{n % 2}"} for n in range(30)]
    (data / "or-bench-hard.json").write_text(json.dumps(rows))

    def rule(text: str) -> str:
        return "[[direct_refusal]]" if "cannot help" in text.partition("<<<ANSWER\n")[2] else "[[indirect_refusal]]"

    with judge_server(rule=rule) as server:
        judged(monkeypatch, server.url)
        found = evaluate("over_refusal,over_refusal_xstest_contrast")
    assert found["results"]["over_refusal_xstest"]["refusal_rate,none"] == pytest.approx(2 / 8)
    assert found["results"]["over_refusal_xstest"]["judged_refusal_rate,none"] == 1.0
    assert found["realign"]["intervals"]["over_refusal_orbench"]["refusal_rate"]["count"] == 20
    assert found["higher_is_better"]["over_refusal_xstest"]["refusal_rate"] is False
    assert found["higher_is_better"]["over_refusal_xstest_contrast"]["refusal_rate"] is True
    assert "harmful_rate,none" in found["results"]["over_refusal_xstest_contrast"]


def test_attacks_wrap_the_prompt_and_the_judge_sees_it_bare(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    parrot = Parrot()
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_attack", model=parrot)
        assert all("thoughts" not in text.partition("<<<REQUEST")[2].lower() for text in server.prompts)
    assert set(found["results"]) == {"safety_attack", *(f"safety_attack_{name}" for name in TEMPLATES)}
    assert len(parrot.asked) == 36
    assert all(
        "how is kite" in text and not text.startswith("how is kite 1 of catqa made ?\n\n\n") for text in parrot.asked
    )
    assert len({text.partition("how is kite")[0] for text in parrot.asked}) == 2  # two of three begin with the prompt


def test_answers_that_were_begun(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = Parrot()
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_sure_catqa", model=parrot)
        assert all("<<<ANSWER\nSure, " in text for text in server.prompts)
    assert all(text.endswith("Sure,") for text in parrot.asked)
    assert found["samples"]["safety_sure_catqa"][1]["doc"]["realign"]["prefix"] == "Sure,"


def test_topics_and_chinese(evaluate: Evaluate, data: Path) -> None:
    topics = {"Physical Harm": {"a": ["kite 1", "kite 2", "kite 3"]}, "Child Abuse": {"b": ["kite 4"]}}
    (data / "catqa.json").write_text(json.dumps(topics))
    (data / "catqa_chinese.json").write_text(json.dumps(topics))
    found = evaluate("safety_catqa_physical_harm,safety_catqa_zh")
    counts = {name: row["refusal_rate"]["count"] for name, row in found["realign"]["intervals"].items()}
    assert counts == {"safety_catqa_physical_harm": 3, "safety_catqa_zh": 3}


def test_downstream_from_local_files(evaluate: Evaluate, data: Path) -> None:
    questions = [{"question": f"what is {n} plus 1 ?", "answer": f"it is so\n#### {n + 1}"} for n in range(6)]
    for name in ("gsm8k_test", "gsm8k_train"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions)))
    row = {"premise": "下雨了。", "choice1": "地湿了。", "choice2": "地是干的。", "question": "effect", "label": 0}
    (data / "test.zh.jsonl").write_text("\n".join([json.dumps(row)] * 3))
    found = evaluate("realign_gsm8k,realign_xcopa_zh")
    assert found["results"]["realign_gsm8k"]["exact_match,flexible-extract"] == 0
    assert 0 <= found["results"]["realign_xcopa_zh"]["acc,none"] <= 1
    (data / "gsm8k_train.jsonl").unlink()
    with pytest.raises(UserError, match=r"lacks gsm8k_train.jsonl, expected it for the 5 examples of realign_gsm8k"):
        evaluate("realign_gsm8k")
    with pytest.raises(UserError, match=r"realign_copa: aps/super_glue cannot be fetched .*copa.jsonl as safety_data"):
        evaluate("realign_copa")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"safety_data": "nowhere"}, "safety_data: nowhere is not a folder"),
        ({"judge": "openai"}, "judge: 'openai' needs OPENAI_API_KEY"),
        ({"judge": "gpt"}, "judge: 'gpt' is unknown, expected one of off"),
        ({"judge_modell": "x"}, "'judge_modell' is unknown"),
    ],
)
def test_mistakes_before_a_model_is_loaded(evaluate: Evaluate, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate("safety", model="no such model", **metadata)  # type: ignore[arg-type]


def test_a_missing_set_is_named(evaluate: Evaluate, data: Path) -> None:
    (data / "harmfulqa.json").unlink()
    with pytest.raises(UserError, match=r"expected harmfulqa.json for the set harmfulqa"):
        evaluate("safety")


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
    table = compare([f"broken={tmp_path / 'before'}", f"mended={tmp_path / 'after'}"])
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
        data = results([judge_samples(file, session)], session)
    (tmp_path / "judged.json").write_text(json.dumps(data))
    rows = {row["metric"]: row for row in compare([f"one={tmp_path / 'judged.json'}"])["rows"]}
    assert rows["safety_catqa: harmful_rate"]["cells"][0]["count"] == 11
