"""A study on the terminal: what would run, and the tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from realign_plugin.study.plan import KINDS, Plan

TROUBLE: Final = 0.1
"""A rate such as incoherence that is worth a column on the terminal where a model reaches it."""


def show_plan(plan: Plan, targets: Sequence[str], again: Sequence[str] = ()) -> None:
    """Print what would run, and what is done.

    Args:
        plan: The plan.
        targets: What is wanted.
        again: Steps that would be run once more.
    """
    from rich.console import Console
    from rich.table import Table

    wanted, stale = plan.wanted(targets), {step.name: why for step, why in plan.stale(targets, again)}
    table = Table("kind", "steps", "done", "to do", title=f"{plan.root}: {', '.join(targets)}")
    all_of, left = Counter(step.kind for step in wanted), Counter(s.kind for s in wanted if s.name in stale)
    for kind in KINDS:
        if all_of[kind]:
            table.add_row(kind, str(all_of[kind]), str(all_of[kind] - left[kind]), str(left[kind]))
    table.add_row("all", str(len(wanted)), str(len(wanted) - len(stale)), str(len(stale)))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    for step in wanted:
        why = stale.get(step.name, "done")
        console.print(f"  {step.name}: {step.says}  [dim]({why})[/dim]", highlight=False)
    others = [name for name in plan.targets if name not in (*targets, "all")]
    console.print(f"Other targets: {', '.join(others)}." if others else "There are no other targets.")


def _worth_showing(column: dict[str, Any], rows: Sequence[dict[str, Any]], plan: Plan) -> bool:
    """Whether a column goes to the terminal: both axes do, others where they were asked for or tell of trouble."""
    values = (row["cells"][column["key"]]["value"] for row in rows)
    return bool(
        column["axis"] != "other"
        or plan.config["evaluate"]["columns"]
        or (column["better"] == "lower" and any(value is not None and value >= TROUBLE for value in values))
    )


def show_table(plan: Plan, name: str) -> None:
    """Print a table of the study on the terminal."""
    from rich.console import Console
    from rich.table import Table

    from realign_plugin.evaluation.cells import Cell

    found = json.loads((plan.folder / "tables" / f"{name}.json").read_text(encoding="utf-8"))
    shown = [column for column in found["columns"] if _worth_showing(column, found["rows"], plan)]
    several = len({row["group"] for row in found["rows"]} - {"start", "fused"}) > 1
    heads = [*(["group", "model"] if several else ["model"]), *(column["label"] for column in shown)]
    table = Table(title=f"{plan.config['title']}: {found['title']}")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in found["rows"]:
        cells = [{k: v for k, v in row["cells"][c["key"]].items() if k != "reason"} for c in shown]
        first = [plan.groups.get(row["group"], row["group"])] if several else []
        table.add_row(*first, row["label"], *(Cell(**cell).text() for cell in cells))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    console.print(f"95 % intervals in brackets. Saved as {plan.root}/tables/{name}.md and .json.")
