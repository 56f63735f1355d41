"""Tables as the page shows them: cells as text, the best marked, and the reasons of missing numbers as notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from realign_plugin.lab.records import REPAIRED_ROLES, Column, Row, Table
from realign_plugin.lab.report.drawing import role_name
from realign_plugin.lab.report.numbers import interval, is_share, number

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class GridCell:
    """A cell.

    Attributes:
        text: The number, or ``n/a``.
        ends: Its interval, where known.
        best: Whether it is the best of the repaired rows in its group.
        note: Number of the note that explains a missing number.
        counted: ``12 of 120``, where known.
    """

    text: str
    ends: str | None = None
    best: bool = False
    note: int | None = None
    counted: str | None = None


@dataclass(frozen=True)
class GridRow:
    """A row.

    Attributes:
        label: What the row is called.
        seed: ``seed 1``, where rows of the same name differ in it.
        role: Its role, as in classes of the style sheet.
        role_text: Its role, in words.
        cells: In the columns' order.
    """

    label: str
    seed: str | None
    role: str
    role_text: str
    cells: list[GridCell]


@dataclass(frozen=True)
class Heading:
    """A column's heading.

    Attributes:
        label: The heading.
        better: ``less is better`` or ``more is better``.
        share: Whether numbers are in per cent.
        first: Whether a new axis begins here.
    """

    label: str
    better: str
    share: bool
    first: bool


@dataclass
class Grid:
    """A table.

    Attributes:
        table: What it shows.
        axes: Axis and number of columns, for the row above the headings.
        headings: One a column.
        groups: Group and rows.
        notes: Reasons for missing numbers; the first is note 1.
        marks_best: Whether any cell is marked as the best.
    """

    table: Table
    axes: list[tuple[str, int]] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    groups: list[tuple[str, list[GridRow]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marks_best: bool = False


def grid(table: Table) -> Grid:
    """Lay out a table."""
    result = Grid(table)
    shares = {column.key: is_share(column, table.rows) for column in table.columns}
    last = None
    for column in table.columns:
        if column.axis != last:
            result.axes.append((column.axis, 0))
        result.axes[-1] = (column.axis, result.axes[-1][1] + 1)
        better = {"lower": "less is better", "higher": "more is better"}.get(column.better or "", "")
        result.headings.append(Heading(column.label, better, shares[column.key], column.axis != last))
        last = column.axis
    for group, rows in table.groups.items():
        best = {column.key: _best(column, rows) for column in table.columns}
        names = Counter((row.label, row.role) for row in rows)
        shown = []
        for row in rows:
            cells = [_cell(result, row, column, shares[column.key], best[column.key]) for column in table.columns]
            seed = f"seed {row.seed}" if row.seed is not None and names[row.label, row.role] > 1 else None
            shown.append(GridRow(row.label, seed, role_name(row.role), row.role or "model", cells))
        result.groups.append((group, shown))
    return result


def _best(column: Column, rows: Sequence[Row]) -> float | None:
    """The best number of the repaired rows, if there are several to choose from."""
    values = [row.cell(column.key).value for row in rows if row.role in REPAIRED_ROLES]
    known = [value for value in values if value is not None]
    if column.better is None or len(known) < 2:
        return None
    return min(known) if column.better == "lower" else max(known)


def _cell(result: Grid, row: Row, column: Column, share: bool, best: float | None) -> GridCell:
    cell = row.cell(column.key)
    if cell.value is None:
        reason = cell.reason or NOT_MEASURED
        if reason not in result.notes:
            result.notes.append(reason)
        return GridCell("n/a", note=result.notes.index(reason) + 1)
    text = number(cell.value, share)
    # What is written alike is marked alike.
    is_best = best is not None and row.role in REPAIRED_ROLES and text == number(best, share)
    result.marks_best |= is_best
    counted = f"{cell.hits:g} of {cell.count:g}" if cell.hits is not None and cell.count else None
    return GridCell(text, interval(cell, share), is_best, None, counted)
