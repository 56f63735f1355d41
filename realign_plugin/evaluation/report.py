"""Metrics and comparisons on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from realign_plugin.evaluation.cells import Cell
from realign_plugin.evaluation.metrics import describe
from realign_plugin.terminal import new_console

if TYPE_CHECKING:
    from realign_plugin.evaluation.rejudge import Judged
    from realign_plugin.evaluation.session import Session


def print_metrics(judged: Sequence[Judged], session: Session) -> None:
    """Print the metrics of judged samples, and what the judge did."""
    from rich.table import Table

    table = Table("task", "metric", "value", "95 % interval", "answers")
    for one in judged:
        for name, value in one.metrics.items():
            known = describe(value) or {}
            ends = f"[{known['low']:.3f}, {known['high']:.3f}]" if "low" in known else known.get("not_available", "")
            table.add_row(one.task, name, f"{value:.4f}", ends, str(one.count))
    console = new_console()
    console.print(table)
    console.print(f"judge: {session.settings.judge_model}; {session.judge.report.line()}", markup=False)


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print safety and skill, a column for each model."""
    from rich.table import Table

    names = [model["name"] for model in comparison["models"]]
    table = Table("axis", "metric", "better", *names)
    for row in comparison["rows"]:
        texts = [Cell(**cell).text() for cell in row["cells"]]
        for index, gap in enumerate(row["differences"], 1):
            if gap is not None:
                ends = f" [{gap['low']:+.2f}, {gap['high']:+.2f}]" if "low" in gap else ""
                texts[index] += f"\n{gap['value']:+.2f}{ends}"
        better = "higher" if row["higher_is_better"] else "lower"
        table.add_row(row["axis"], row["metric"], better, *texts)
    console = new_console()
    console.print(table)
    console.print(f"95 % intervals in brackets; below them the difference to {names[0]}.", markup=False)
    for warning in comparison["warnings"]:
        console.print(f"{warning}.", style="yellow")
