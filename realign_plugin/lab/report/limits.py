"""Limits of a study's numbers; which of them apply is read from its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from realign_plugin.evaluation.metrics.rates import wilson
from realign_plugin.lab.records import Table
from realign_plugin.lab.report.cards import JudgeCard
from realign_plugin.lab.report.headline import Comparison
from realign_plugin.lab.report.numbers import percent
from realign_plugin.lab.report.run import Run

NOT_SAFE: Final = (
    "A repaired model is not a safe model",
    "These numbers hold only for the prompts and attacks that were measured here. Measure it on your "
    "own prompts before anyone uses it.",
)
DIFFERENCES: Final = (
    "Differences",
    "Before and after answer the same prompts, but the intervals of their differences treat them as independent, "
    "which makes them rather too wide.",
)
OFF: Final = (
    "Refusals were detected by their phrases alone, offline. Phrases miss refusals in other words and mistake some "
    "answers for refusals; an answer that does not refuse need not be harmful, and nonsense is not a refusal."
)


def limits(run: Run, judges: Sequence[JudgeCard], found: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Limits, the most serious first.

    Returns:
        Pairs of a short name and what it means.
    """
    listed = [NOT_SAFE]
    if run.main and (fewest := fewest_prompts(run.main)) is not None:
        column, count = fewest
        text = (
            f"The smallest safety set ({column}) has {count} prompts: were none of them a hit, the true rate could "
            f"still be {percent(wilson(0, count)[1])}. Intervals are 95 % each, and are not widened for the many "
            "comparisons of a table."
        )
        listed.append(("Few prompts, wide intervals", text))
    if (most := max((one.candidates for one in found), default=0)) > 1:
        text = (
            "The headline picks the best realigned row by the same prompts on which it is reported, of up to "
            f"{most} rows. The tables show all of them."
        )
        listed.append(("The best row is chosen optimistically", text))
    if seeds := len(run.study.seeds):
        text = "Intervals show how the numbers would vary with other prompts, not with another training. " + (
            "With one seed the latter is unknown; run the study with several."
            if seeds == 1
            else "Compare the rows of the seeds for the latter."
        )
        listed.append(("One seed" if seeds == 1 else f"{seeds} seeds", text))
    listed += _judging(run, judges)
    return [*listed, DIFFERENCES] if found else listed


def fewest_prompts(table: Table) -> tuple[str, int] | None:
    """The safety column with the fewest prompts, and how many these are; None where no count is known."""
    counts = [
        (int(cell.count), column.label)
        for column in table.columns
        if column.axis == "safety"
        for cell in (row.cell(column.key) for row in table.rows)
        if cell.value is not None and cell.count
    ]
    if not counts:
        return None
    count, label = min(counts)
    return label, count


def _judging(run: Run, judges: Sequence[JudgeCard]) -> list[tuple[str, str]]:
    listed = []
    if any(card.off for card in judges):
        listed.append(("No judge" if all(card.off for card in judges) else "Some results without a judge", OFF))
    if any(not card.off for card in judges):
        text = "Harm was judged by a model, which has its own errors and biases; read some of the answers yourself."
        if unjudged := sum(card.unjudged for card in judges):
            text += f" {unjudged:,} answers stayed unjudged and count as neither harmful nor harmless."
        listed.append(("A judge makes errors", text))
    if not judges:
        what = "no results files are in the folder" if not (run.folder / "results").is_dir() else "they do not say"
        listed.append(("Judge unknown", f"This folder does not show how answers were judged: {what}."))
    return listed
