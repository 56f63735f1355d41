"""A study on the terminal: what would run, and its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from realign_plugin.lab import records
from realign_plugin.lab.report.run import read_record
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import KINDS
from realign_plugin.terminal import new_console

TROUBLE: Final = 0.1
"""A rate such as incoherence gets a column on the terminal where a model reaches this."""


def show_plan(plan: Plan, targets: Sequence[str], again: Sequence[str] = ()) -> None:
    """Print what would run, and what is done."""
    from rich.table import Table
    from rich.text import Text

    wanted, stale = plan.wanted(targets), {step.name: why for step, why in plan.stale(targets, again)}
    table = Table("kind", "steps", "done", "to do", title=f"{plan.root}: {', '.join(targets)}")
    all_of, left = Counter(step.kind for step in wanted), Counter(s.kind for s in wanted if s.name in stale)
    for kind in KINDS:
        if all_of[kind]:
            table.add_row(kind, str(all_of[kind]), str(all_of[kind] - left[kind]), str(left[kind]))
    table.add_row("all", str(len(wanted)), str(len(wanted) - len(stale)), str(len(stale)))
    console = new_console()
    console.print(table)
    for step in wanted:
        why = stale.get(step.name, "done")
        console.print(Text.assemble(f"  {step.name}: {step.title}  ", (f"({why})", "dim")))
    others = [name for name in plan.targets if name not in (*targets, "all")]
    console.print(f"Other targets: {', '.join(others)}." if others else "There are no other targets.")


def _worth_showing(column: records.Column, table: records.Table, plan: Plan) -> bool:
    """Whether a column goes to the terminal: both axes do, others where they were asked for or show a problem."""
    values = (row.cell(column.key).value for row in table.rows)
    return bool(
        column.axis != "other"
        or plan.config["evaluate"]["columns"]
        or (column.better == "lower" and any(value is not None and value >= TROUBLE for value in values))
    )


def show_table(plan: Plan, name: str) -> None:
    """Print a table of the study on the terminal.

    Raises:
        UserError: If its file is broken.
    """
    from rich.table import Table

    found = read_record(records.Table, plan.folder / "tables" / f"{name}.json")
    shown = [column for column in found.columns if _worth_showing(column, found, plan)]
    several = len(found.groups.keys() - {"start", "fused"}) > 1
    heads = [*(["group", "model"] if several else ["model"]), *(column.label for column in shown)]
    table = Table(title=f"{plan.config['title']}: {found.title}")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in found.rows:
        cells = [row.cell(column.key) for column in shown]
        first = [plan.groups.get(row.group, row.group)] if several else []
        table.add_row(*first, row.label, *(cell.text() for cell in cells))
    console = new_console(160)
    console.print(table)
    console.print(f"95 % intervals in brackets. Saved as {plan.root}/tables/{name}.md and .json.")
