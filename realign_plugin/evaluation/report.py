"""Metrics and comparisons on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from realign_plugin.evaluation.metrics.cells import Cell
from realign_plugin.evaluation.metrics.rates import describe
from realign_plugin.terminal import new_console, print_table

if TYPE_CHECKING:
    from realign_plugin.evaluation.calibration import Calibration
    from realign_plugin.evaluation.metrics.rates import Counted
    from realign_plugin.evaluation.rejudge import Judged
    from realign_plugin.evaluation.session import Session


def print_metrics(judged: Sequence[Judged], session: Session) -> None:
    """Print the metrics of judged samples, and what the judge did."""
    rows = []
    for one in judged:
        for name, value in one.metrics.items():
            known = describe(value) or {}
            ends = f"[{known['low']:.3f}, {known['high']:.3f}]" if "low" in known else known.get("not_available", "")
            rows.append((one.task, name, f"{value:.4f}", ends, str(one.count)))
    print_table(("task", "metric", "value", "95 % interval", "answers"), rows)
    for judge in session.judges:
        guard = "" if judge.chosen.guard is None else f" as {judge.chosen.name}"
        new_console().print(f"judge: {judge.model}{guard}; {judge.report.line()}")


def print_calibrations(rows: Sequence[Calibration]) -> None:
    """Print each judge's precision, recall and agreement with people."""
    lines = []
    for row in rows:
        numbers = [_with_ends(value) for value in (row.precision, row.recall, row.kappa)]
        count = 0 if row.kappa is None else row.kappa.count
        lines.append((row.judge, row.model, row.about, *numbers, str(count), str(row.unjudged)))
    print_table(("judge", "model", "of", "precision", "recall", "kappa", "answers", "unjudged"), lines)
    new_console().print("95 % intervals in brackets: Wilson; for kappa, Fleiss, Cohen and Everitt.", markup=False)


def _with_ends(value: Counted | None) -> str:
    if value is None or value.undefined is not None:
        return "N/A"
    low, high = value.interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print safety and skill, a column for each model."""
    names = [model["name"] for model in comparison["models"]]
    rows = []
    for row in comparison["rows"]:
        texts = [Cell(**cell).text() for cell in row["cells"]]
        for index, gap in enumerate(row["differences"], 1):
            if gap is not None:
                ends = f" [{gap['low']:+.2f}, {gap['high']:+.2f}]" if "low" in gap else ""
                texts[index] += f"\n{gap['value']:+.2f}{ends}"
        better = "higher" if row["higher_is_better"] else "lower"
        rows.append((row["axis"], row["metric"], better, *texts))
    print_table(("axis", "metric", "better", *names), rows)
    console = new_console()
    console.print(f"95 % intervals in brackets; below them the difference to {names[0]}.")
    for line in comparison["judges"]:
        console.print(line, markup=False)
    for warning in comparison["warnings"]:
        console.print(f"{warning}.", style="yellow")
