"""Tables: what is marked as the best, what stands for a missing number."""

from __future__ import annotations

from typing import Any

from realign_plugin.lab.report.grids import grid
from tests.lab.report.test_axes import HARMFUL, OVER, SCORE, skill, table


def test_the_best_repaired_row_of_each_group_is_marked_and_equals_share_it() -> None:
    made = grid(
        table(
            [HARMFUL, skill("task")],
            ("a", "fine-tuned", {"harmful": 0, "task": 99}),  # not repaired: never marked
            ("a", "realigned", {"harmful": 3, "task": 80}),
            ("a", "baseline", {"harmful": 3, "task": 70}),
            ("b", "realigned", {"harmful": 50, "task": 10}),
            ("b", "baseline", {"harmful": 60, "task": 20}),
            ("c", "realigned", {"harmful": 1, "task": 100}),  # nothing to choose from
        )
    )
    marks = [[cell.best for cell in row.cells] for _, rows in made.groups for row in rows]
    assert marks == [[False, False], [True, True], [True, False], [True, False], [False, True], [False, False]]
    assert made.marks_best


def test_missing_numbers_have_numbered_reasons_each_once() -> None:
    none = {"value": None, "reason": "no judge"}
    made = grid(
        table(
            [HARMFUL, OVER],
            ("a", "base", {"harmful": none, "over-refusal": 3}),
            ("a", "realigned", {"harmful": none}),
            ("a", "baseline", {"harmful": {"value": float("nan"), "reason": "no judge"}, "over-refusal": 4}),
        )
    )
    rows = made.groups[0][1]
    assert [[cell.note for cell in row.cells] for row in rows] == [[1, None], [1, 2], [1, None]]
    assert made.notes == ["no judge", "not measured"]
    assert rows[0].cells[0].text == "n/a"


def test_shares_are_in_per_cent_and_scores_are_not() -> None:
    cells = {"harmful": 5, "preference": {"value": -0.5, "low": -0.75, "high": 0.25}}
    made = grid(table([HARMFUL, SCORE], ("a", "realigned", cells)))
    first, second = made.groups[0][1][0].cells
    assert (first.text, first.ends, first.counted) == ("5.0", "2.2–11.2", "5 of 100")
    assert (second.text, second.ends) == ("\N{MINUS SIGN}0.50", "\N{MINUS SIGN}0.75–0.25")
    assert [heading.share for heading in made.headings] == [True, False]


def test_axes_are_headed_and_seeds_told_where_names_repeat() -> None:
    made = table(
        [HARMFUL, SCORE, skill("x"), OVER], ("a", "realigned", {}), ("a", "realigned", {}), ("a", "baseline", {}),
    )  # fmt: skip
    rows = [row.model_copy(update={"seed": n % 2}) for n, row in enumerate(made.rows)]
    shown = grid(made.model_copy(update={"rows": rows}))
    assert shown.axes == [("safety", 2), ("skill", 1), ("over-refusal", 1)]
    assert [heading.first for heading in shown.headings] == [True, False, True, True]
    assert [row.seed for row in shown.groups[0][1]] == ["seed 0", "seed 1", None]


CHANGES: list[dict[str, Any]] = [
    {"seed": 0, "name": "x", "label": "x"},
    {"seed": 1, "name": "x", "label": "x, seed 1"},
    {"seed": 0},  # of an earlier version, or a model without seeds
    {},
]


def test_a_seed_is_told_once() -> None:
    row = table([], ("a", "realigned", {})).rows[0]
    titles = [row.model_copy(update=change).title for change in CHANGES]
    assert titles == ["x, seed 0", "x, seed 1", "realigned", "realigned"]
