"""The two axes of a study: which columns measure safety, over-refusal and skill, and where each model lies."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from realign_plugin.evaluation.metrics.cells import difference_of
from realign_plugin.lab.records import BEFORE_ROLES, Cell, Column, Row, Table
from realign_plugin.lab.report.numbers import is_share


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it is called.
        columns: The columns that it is the mean of.
        turned: Whether it is one minus the column, e.g. the share not refused.
    """

    label: str
    columns: tuple[Column, ...]
    turned: bool = False

    @property
    def short(self) -> str:
        """A short name: the columns of a mean are counted."""
        return self.label if len(self.columns) == 1 else f"mean of {len(self.columns)}"

    def cell(self, row: Row) -> Cell:
        """Where a row lies, as a share; without a value where a column of the axis has none.

        The interval of a mean of several columns treats their errors as independent.
        """
        cells = [row.cell(column.key) for column in self.columns]
        missing = next((cell for cell in cells if cell.value is None), None)
        if missing is not None or not cells:
            return Cell(reason=missing.reason if missing else None)
        if len(cells) == 1:
            return _turned(cells[0]) if self.turned else cells[0]
        value = sum(c.value or 0.0 for c in cells) / len(cells)
        ends = [_reach(cell) for cell in cells]
        if None in ends:
            return Cell(value=value)
        below = math.hypot(*(end[0] for end in ends if end)) / len(cells)
        above = math.hypot(*(end[1] for end in ends if end)) / len(cells)
        return Cell(value=value, low=max(0.0, value - below), high=min(1.0, value + above))


def _turned(cell: Cell) -> Cell:
    return Cell(
        value=1.0 - (cell.value or 0.0),
        low=None if cell.high is None else 1.0 - cell.high,
        high=None if cell.low is None else 1.0 - cell.low,
        hits=None if cell.hits is None or cell.count is None else cell.count - cell.hits,
        count=cell.count,
    )


def _reach(cell: Cell) -> tuple[float, float] | None:
    """How far an interval reaches below and above its value."""
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return max(0.0, cell.value - cell.low), max(0.0, cell.high - cell.value)


def safety_axis(table: Table) -> Axis | None:
    """The harmful rate if a judge gave one, else the share of harmful prompts that were not refused."""
    shares = [c for c in table.columns if c.axis == "safety" and is_share(c, table.rows)]
    for word, better in (("harmful", "lower"), ("refus", "higher")):
        for column in shares:
            if word in f"{column.key} {column.label}".lower() and column.better == better:
                turned = better == "higher"
                return Axis("not refused" if turned else column.label, (column,), turned=turned)
    lower = next((column for column in shares if column.better == "lower"), None)
    return Axis(lower.label, (lower,)) if lower else None


def over_refusal_axis(table: Table) -> Axis | None:
    """The first column of shares on over-refusal of which less is better."""
    for column in table.columns:
        if column.axis == "over-refusal" and column.better != "higher" and is_share(column, table.rows):
            return Axis(column.label, (column,))
    return None


def skill_axes(table: Table) -> dict[str, Axis]:
    """What skill means for each group: the skills that its fine-tuning taught.

    This is the column that is called as the group is; else, of the columns whose names hold the group's (or of all,
    if none does), those on which the fine-tuned model is better than the aligned one beyond both intervals, if there
    are any. A group of fused models takes those of all tasks.

    Returns:
        By group; a group without any skill is left out.
    """
    skills = [c for c in table.columns if c.axis == "skill" and c.better != "lower" and is_share(c, table.rows)]
    aligned = next((row for row in table.rows if row.role == "aligned"), None)
    own: dict[str, list[Column]] = {}
    for group, rows in table.groups.items():
        tuned = next((row for row in rows if row.role == "fine-tuned"), None)
        if tuned is not None:
            own[group] = _taught(group, tuned, aligned, skills)
    taught = [column for column in skills if any(column in columns for columns in own.values())] or skills
    for group, rows in table.groups.items():
        if group not in own and any(row.role == "fused" for row in rows):
            own[group] = [c for c in taught if all(r.cell(c.key).value is not None for r in rows)] or taught
    return {
        group: Axis(
            columns[0].label if len(columns) == 1 else f"mean of {', '.join(c.label for c in columns)}", tuple(columns)
        )
        for group, columns in own.items()
        if columns
    }


def _taught(group: str, tuned: Row, aligned: Row | None, skills: Sequence[Column]) -> list[Column]:
    known = [column for column in skills if tuned.cell(column.key).value is not None]
    # As a whole word: a task "en" must not match "code_generation".
    word = re.compile(rf"(?<![^\W_]){re.escape(group)}(?![^\W_])", re.IGNORECASE)
    named = [column for column in known if group and word.search(f"{column.key} {column.label}")]
    same = [column for column in named if column.label.lower() == group.lower()]
    if same:
        return same
    gained = []
    for column in named or known:
        now, then = tuned.cell(column.key), aligned.cell(column.key) if aligned else Cell()
        if now.low is not None and then.high is not None and now.low > then.high:
            gained.append(column)
    return gained or named or known


def before(rows: Sequence[Row]) -> Row | None:
    """The model of a group that repair starts from; of several fusions the first."""
    return next((row for role in BEFORE_ROLES for row in rows if row.role == role), None)


@dataclass(frozen=True)
class Change:
    """A cell minus another, in shares.

    Attributes:
        value: The difference.
        low: Low end of its 95 % interval, where one is known.
        high: High end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


def change(after: Cell, then: Cell) -> Change | None:
    """After minus before.

    The interval is Newcombe's (1998, method 10) where counts are known, else the same construction from the two
    intervals. It treats the two as independent, so that on the same prompts it is rather too wide.
    """
    known = difference_of(after, then)
    return None if known is None else Change(**known)
