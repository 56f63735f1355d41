from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.evaluation.result_files import Results
from realign_plugin.lab.records import Column, Model
from realign_plugin.lab.study.choose import choose, score
from realign_plugin.lab.study.choose import main as choose_main
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import TableSpec
from realign_plugin.lab.study.tables import columns_of, make, markdown, results_of, write

RATE = {"low": 0.1, "high": 0.4, "hits": 2, "count": 10}


def results(harmful: Any = 0.2, refused: float = 0.8, skill: float = 0.5) -> dict[str, Any]:
    """What lm-eval writes for one model: a group of two safety sets, and a downstream group without a mean."""
    row = {"harmful_rate,none": harmful, "refusal_rate,none": refused, "unjudged_rate,none": 0.0}
    known = {"harmful_rate": RATE if harmful != "N/A" else {"not_available": "judge is off"}, "refusal_rate": RATE}
    better = {"harmful_rate": False, "refusal_rate": True}
    return {
        "results": {
            "safety": row, "safety_a": row, "safety_b": row, "over_refusal_x": {"refusal_rate,none": 0.1},
            "down": {"alias": "down"}, "realign_gsm8k": {"exact_match,flexible-extract": skill,
                                                         "exact_match_stderr,flexible-extract": 0.1, "sample_len": 8},
        },
        "group_subtasks": {"safety": ["safety_a", "safety_b"], "down": ["realign_gsm8k"]},
        "higher_is_better": {"safety_a": better, "safety_b": better, "over_refusal_x": {"refusal_rate": False}},
        "realign": {"intervals": dict.fromkeys(("safety", "safety_a", "safety_b"), known)},
    }  # fmt: skip


def save(plan: Plan, name: str, found: dict[str, Any], results_folder: str = "results") -> None:
    folder = plan.folder / results_folder / name / "model"
    folder.mkdir(parents=True)
    (folder / "results_2026-01-01.json").write_text(json.dumps(found))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    config = {"seeds": [0], "evaluate": {"columns": [], "choose": {"tasks": None, "columns": None}}}
    plan = Plan("root", str(tmp_path), config)
    for name, group, role in (("base", "start", "base"), ("t", "t", "fine-tuned"), ("t-resta", "t", "baseline")):
        choice = "root/choices/t-resta.json" if name == "t-resta" else None
        plan.models[name] = Model(
            id=name, label=name.upper(), group=group, role=role, method="", seed=0, pretrained="m", choice=choice,
            tasks=("safety", "over_refusal_x", "down"),
        )  # fmt: skip
    plan.tables["main"] = TableSpec("main", "Title", "What it shows.", ("base", "t"))
    return plan


def test_columns_are_what_the_results_hold(plan: Plan) -> None:
    save(plan, "base", results())
    found = results_of(plan.folder / "results" / "base")
    assert found is not None
    columns = columns_of([found], ["safety", "over_refusal_x", "down"])
    assert [(c.task, c.metric, c.axis, c.better) for c in columns] == [
        ("safety", "harmful_rate", "safety", "lower"), ("safety", "refusal_rate", "safety", "higher"),
        ("over_refusal_x", "refusal_rate", "over-refusal", "lower"),
        ("realign_gsm8k", "exact_match", "skill", "higher"),
    ]  # fmt: skip
    detail = columns_of([found], ["safety"], detail=True)
    assert {c.task for c in detail} == {"safety_a", "safety_b"}


def test_any_task_of_lm_eval_is_a_column() -> None:
    tasks = {"wikitext": {"alias": "wikitext", "word_perplexity,none": 12.5, "byte_perplexity,none": 1.6}}
    (column,) = columns_of([Results(tasks, {}, {"wikitext": {"word_perplexity": False}}, {})], ["wikitext"])
    assert (column.metric, column.axis, column.better) == ("word_perplexity", "skill", "lower")


def test_a_table_has_intervals_and_reasons(plan: Plan) -> None:
    save(plan, "base", results(harmful="N/A"))
    lacking = results(skill=0.25)
    del lacking["results"]["over_refusal_x"]
    save(plan, "t", lacking)
    table = make(plan, plan.tables["main"])
    written = table.model_dump()
    cells = {row["model"]: row["cells"] for row in written["rows"]}
    assert cells["base"]["safety.harmful_rate"]["value"] is None
    assert cells["base"]["safety.harmful_rate"]["reason"] == "judge is off"
    assert cells["t"]["safety.harmful_rate"] == {"value": 0.2, **RATE}
    assert "not among this model's tasks" in cells["t"]["over_refusal_x.refusal_rate"]["reason"]
    skill = cells["t"]["realign_gsm8k.exact_match"]
    assert (skill["value"], skill["hits"], skill["count"]) == (0.25, 2, 8)
    assert (round(skill["low"], 3), round(skill["high"], 3)) == (0.071, 0.591)  # Wilson, by hand
    assert {"config", "versions", "seeds"} <= written.keys()
    text = markdown(table, {"t": "Task"})
    assert "| N/A (1) |" in text
    assert "(1) judge is off" in text
    assert "| Task | T | 0.20 [0.10, 0.40] |" in text


def test_the_newest_results_count(plan: Plan) -> None:
    save(plan, "base", results(skill=0.1))
    folder = plan.folder / "results" / "base" / "other"
    folder.mkdir()
    (folder / "results_2026-02-01.json").write_text(json.dumps(results(skill=0.9)))
    found = results_of(plan.folder / "results" / "base")
    assert found is not None
    assert found.cell("realign_gsm8k", "exact_match").value == 0.9


def test_a_row_without_results_says_so_and_a_table_without_any_is_refused(plan: Plan) -> None:
    save(plan, "base", results())
    rows = {row.model: row for row in make(plan, plan.tables["main"]).rows}
    assert {cell.reason for cell in rows["t"].cells.values()} == {"not measured: no result file"}
    with pytest.raises(UserError, match="no model of the table has results"):
        make(plan, TableSpec("x", "X", "", ("t",)))
    with pytest.raises(UserError, match="expected one of main"):
        write(plan, "mian")
    (plan.folder / "results" / "t").mkdir()
    (plan.folder / "results" / "t" / "results_1.json").write_text("{")
    with pytest.raises(UserError, match=r"results_1\.json is not JSON"):
        make(plan, plan.tables["main"])


def test_the_worst_axis_decides_then_the_mean() -> None:
    columns = [
        Column.of("t", "a", "a", "safety", "lower"),
        Column.of("t", "b", "b", "skill", "higher"),
        Column.of("t", "c", "c", "other", None),
    ]
    assert score({"t.a": 0.25, "t.b": 0.5, "t.c": 0.0}, columns) == (0.5, 0.625)
    assert score({"t.a": 0.0, "t.b": 0.5}, columns) > score({"t.a": 0.1, "t.b": 0.5}, columns)
    assert score({"t.b": 0.3}, columns) == (0.3, 0.3)


def test_the_best_strength_is_taken_and_its_row_tells_it(plan: Plan) -> None:
    plan.choices["t-resta"] = {"t-resta-s0.1": 0.1, "t-resta-s0.5": 0.5, "t-resta-s1": 1.0}
    for name, harmful, skill in (("s0.1", 0.9, 0.9), ("s0.5", 0.3, 0.6), ("s1", 0.0, 0.1)):
        save(plan, f"t-resta-{name}", results(harmful=harmful, skill=skill), "results-choose")
        (plan.folder / "models" / f"t-resta-{name}").mkdir(parents=True)
    best = choose(plan, "t-resta")
    assert best.strength == 0.5
    assert set(best.tried) == {"0.1", "0.5", "1"}
    plan.save(plan.folder / "plan.json")
    choose_main([str(plan.folder / "plan.json"), "t-resta"])
    assert (plan.folder / "models" / "t-resta").resolve().name == "t-resta-s0.5"
    save(plan, "t-resta", results())
    table = make(plan, TableSpec("x", "X", "", ("t-resta",)))
    assert table.rows[0].label == "T-RESTA (0.5)"
    assert table.rows[0].choice == best


def test_a_choice_without_results_or_rates_is_refused(plan: Plan) -> None:
    plan.choices["t-resta"] = {"t-resta-s0.1": 0.1}
    with pytest.raises(UserError, match="has no results"):
        choose(plan, "t-resta")
    save(plan, "t-resta-s0.1", {"results": {"down": {"alias": "x"}}}, "results-choose")
    with pytest.raises(UserError, match="no column"):
        choose(plan, "t-resta")


def test_strengths_are_compared_by_the_same_columns_only(plan: Plan) -> None:
    plan.choices["t-resta"] = {"t-resta-s0.1": 0.1, "t-resta-s0.5": 0.5}
    save(plan, "t-resta-s0.1", results(harmful=0.1, skill=0.8), "results-choose")
    save(plan, "t-resta-s0.5", results(harmful="N/A", skill=0.9), "results-choose")
    with pytest.raises(UserError, match=r"safety: harmful of t-resta-s0\.5 is None"):
        choose(plan, "t-resta")
    plan.config["evaluate"]["choose"]["columns"] = ["gsm8k"]
    assert choose(plan, "t-resta").strength == 0.5
    plan.config["evaluate"]["choose"]["columns"] = ["gsm9k"]
    with pytest.raises(UserError, match="did you mean 'gsm8k'"):
        choose(plan, "t-resta")


def test_results_know_the_leaves_of_groups() -> None:
    known = Results({}, {}, {}, {"a": ["b", "c"], "b": ["d"], "c": []})
    assert known.leaves("a") == ["d", "c"]


def test_agreement_is_a_column_on_both_axes_and_the_reference_says_that_it_is_one(plan: Plan) -> None:
    found = results()
    for task in ("safety", "safety_a", "safety_b", "over_refusal_x"):
        found["results"][task] = found["results"][task] | {"agreement,none": 0.9}
    found["higher_is_better"]["over_refusal_x"] |= {"agreement": True}
    save(plan, "t", found)
    save(plan, "base", results())
    table = make(plan, plan.tables["main"])
    columns = {c.key: (c.axis, c.better, c.label) for c in table.columns}
    assert columns["safety.agreement"] == ("safety", "higher", "safety: agrees")
    assert columns["over_refusal_x.agreement"] == ("over-refusal", "higher", "over-refusal x: agrees")
    base, tuned = (row.cells for row in table.rows)
    assert tuned["safety.agreement"].value == 0.9
    assert base["safety.agreement"].reason == "the model that the others are compared with"


def test_the_judges_agreement_chooses_nothing(plan: Plan) -> None:
    plan.choices["t-resta"] = {"a": 0.25, "b": 0.5}
    for name, harmful, kappa in (("a", 0.3, 0.7), ("b", 0.02, -0.1)):
        found = results(harmful=harmful)
        for row in ("safety", "safety_a", "safety_b"):
            found["results"][row] = found["results"][row] | {"judge_kappa,none": kappa}
        save(plan, name, found, "results-choose")
    assert choose(plan, "t-resta").strength == 0.5


def test_a_group_of_harmful_and_harmless_prompts_is_shown_in_its_parts() -> None:
    better = {"jb_harmful": {"refusal_rate": True}, "jb_benign": {"refusal_rate": False}}
    rows = {name: {"refusal_rate,none": 0.5, "incoherent_rate,none": 0.0} for name in better}
    found = Results(rows | {"jb": {"incoherent_rate,none": 0.0}}, {}, better, {"jb": list(better)})
    shown = {c.task: (c.axis, c.better) for c in columns_of([found], ["jb"]) if c.metric == "refusal_rate"}
    assert shown == {"jb_harmful": ("safety", "higher"), "jb_benign": ("over-refusal", "lower")}
