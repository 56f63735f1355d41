"""Which columns make the axes, and how far two cells differ."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.evaluation.metrics.rates import difference, wilson
from realign_plugin.lab.records import Cell, Table
from realign_plugin.lab.report.axes import change, over_refusal_axis, safety_axis, skill_axes

HARMFUL = {"key": "safety.harmful_rate", "label": "harmful", "axis": "safety", "better": "lower"}
REFUSED = {"key": "safety.refusal_rate", "label": "refused", "axis": "safety", "better": "higher"}
SCORE = {"key": "safety.preference_score", "label": "preference", "axis": "safety", "better": "higher"}
OVER = {"key": "over", "label": "over-refusal", "axis": "over-refusal", "better": "lower"}


def skill(name: str) -> dict[str, Any]:
    return {"key": f"{name}.acc", "label": name, "axis": "skill", "better": "higher"}


def share(hits: int, count: int = 100) -> dict[str, Any]:
    low, high = wilson(hits, count)
    return {"value": hits / count, "low": low, "high": high, "hits": hits, "count": count}


def table(columns: list[dict[str, Any]], *rows: tuple[str, str, dict[str, Any]]) -> Table:
    """Rows as (group, role, cells by the columns' labels)."""
    keys = {column["label"]: column["key"] for column in columns}
    made = [
        {
            "model": f"m{n}", "label": role, "group": group, "role": role,
            "cells": {keys[name]: share(value) if isinstance(value, int) else value for name, value in cells.items()},
        }
        for n, (group, role, cells) in enumerate(rows)
    ]  # fmt: skip
    return Table.model_validate({"name": "main", "columns": columns, "rows": made})


def test_harmful_rate_is_the_safety_axis_if_a_judge_gave_one() -> None:
    found = safety_axis(table([REFUSED, HARMFUL], ("t", "base", {"refused": 10, "harmful": 85})))
    assert found is not None
    assert (found.label, found.turned) == ("harmful", False)


def test_without_a_judge_it_is_the_share_not_refused() -> None:
    none = {"value": None, "reason": "no judge"}
    made = table([HARMFUL, REFUSED, SCORE], ("t", "base", {"refused": 10, "harmful": none}))
    found = safety_axis(made)
    assert found is not None
    assert (found.label, found.turned) == ("not refused", True)
    cell = found.cell(made.rows[0])
    low, high = wilson(10, 100)
    assert cell.value == pytest.approx(0.9)
    assert (cell.low, cell.high) == pytest.approx((1 - high, 1 - low))
    assert (cell.hits, cell.count) == (90, 100)


def test_scores_are_no_shares() -> None:
    assert safety_axis(table([SCORE], ("t", "base", {"preference": {"value": 0.5}}))) is None
    assert over_refusal_axis(table([OVER], ("t", "base", {"over-refusal": {"value": 12.0}}))) is None


def test_a_group_s_skill_is_the_one_that_bears_its_name() -> None:
    cells = {"code": 90, "gsm8k": 30}
    found = skill_axes(table([skill("code"), skill("gsm8k")], ("gsm8k", "fine-tuned", cells)))
    assert [column.label for column in found["gsm8k"].columns] == ["gsm8k"]


def test_a_name_counts_as_a_whole_word_only() -> None:
    columns = [skill("generation"), skill("mmlu_en")]
    found = skill_axes(table(columns, ("en", "fine-tuned", {"generation": 90, "mmlu_en": 30})))
    assert [column.label for column in found["en"].columns] == ["mmlu_en"]


def test_of_several_columns_with_its_name_those_that_fine_tuning_taught() -> None:
    cells = ({"word problems": 10, "word order": 10}, {"word problems": 12, "word order": 90})
    columns = [skill("word problems"), skill("word order")]
    made = table(columns, ("start", "aligned", cells[0]), ("word", "fine-tuned", cells[1]))
    assert [column.label for column in skill_axes(made)["word"].columns] == ["word order"]
    called = table([*columns, skill("word")], ("word", "fine-tuned", cells[1] | {"word": 3}))
    assert [column.label for column in skill_axes(called)["word"].columns] == ["word"]


def test_else_it_is_what_fine_tuning_taught_beyond_the_intervals() -> None:
    made = table(
        [skill("one"), skill("two"), skill("three")],
        ("start", "aligned", {"one": 20, "two": 20, "three": 20}),
        ("task", "fine-tuned", {"one": 24, "two": 80, "three": 15}),
    )
    assert [column.label for column in skill_axes(made)["task"].columns] == ["two"]


def test_a_fused_group_takes_the_skills_of_all_tasks_as_their_mean() -> None:
    made = table(
        [skill("one"), skill("two"), skill("other")],
        ("start", "aligned", {"one": 5, "two": 5, "other": 5}),
        ("a", "fine-tuned", {"one": 80, "two": 5, "other": 5}),
        ("b", "fine-tuned", {"one": 5, "two": 90, "other": 5}),
        ("fused", "fused", {"one": 60, "two": 40, "other": 5}),
    )
    axis = skill_axes(made)["fused"]
    assert (axis.label, axis.short) == ("mean of one, two", "mean of 2")
    cell = axis.cell(made.rows[-1])
    assert cell.value == pytest.approx(0.5)
    assert cell.low is not None
    assert share(50, 200)["low"] < cell.low < 0.5


def test_a_skill_without_a_number_leaves_the_point_out() -> None:
    made = table([skill("one")], ("a", "fine-tuned", {"one": 5}), ("a", "realigned", {}))
    assert skill_axes(made)["a"].cell(made.rows[1]).value is None


def test_change_is_newcombe_s_where_counts_are_known() -> None:
    found = change(Cell(**share(3)), Cell(**share(60)))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx(difference(3, 100, 60, 100))
    assert found.certain


def test_change_from_intervals_alone_is_the_same_construction() -> None:
    bare = [Cell(**{k: v for k, v in share(n).items() if k in ("value", "low", "high")}) for n in (3, 60)]
    found = change(*bare)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx(difference(3, 100, 60, 100))
    assert change(Cell(value=0.2), Cell(value=0.1)).low is None  # type: ignore[union-attr]
    assert change(Cell(), Cell(value=0.1)) is None
    assert not change(Cell(**share(30)), Cell(**share(32))).certain  # type: ignore[union-attr]


def test_agreement_is_a_measure_of_its_own_and_no_axis() -> None:
    agrees = [
        {"key": f"{task}.agreement", "label": f"{task}: agrees", "axis": axis, "better": "higher"}
        for task, axis in (("safety", "safety"), ("over_refusal", "over-refusal"))
    ]
    cells = {"safety: agrees": 95, "over_refusal: agrees": 90, "refused": 60, "over-refusal": 20}
    made = table([*agrees, REFUSED, OVER], ("t", "base", cells))
    unsafe, refusing = safety_axis(made), over_refusal_axis(made)
    assert unsafe is not None
    assert unsafe.columns[0].key == "safety.refusal_rate"
    assert refusing is not None
    assert refusing.columns[0].key == "over"
    assert safety_axis(table(agrees, ("t", "base", {"safety: agrees": 95}))) is None
