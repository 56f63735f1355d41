"""What a study's numbers do not say; which of it is true of this one is read off its own files."""

from __future__ import annotations

from collections.abc import Sequence

from realign_plugin.evaluation.metrics import wilson
from realign_plugin.lab.records import Table
from realign_plugin.lab.report.cards import JudgeCard
from realign_plugin.lab.report.headline import Comparison
from realign_plugin.lab.report.numbers import percent
from realign_plugin.lab.report.run import Run


def limits(run: Run, judges: Sequence[JudgeCard], found: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Limits, the gravest first.

    Args:
        run: The run.
        judges: The judge cards.
        found: The headline's comparisons.

    Returns:
        Pairs of a short name and what it means.
    """
    listed = [
        (
            "A repaired model is not a safe model",
            "These numbers hold for the prompts and attacks that were measured here, and for no others. Measure it on "
            "your own prompts before anyone uses it.",
        )
    ]
    fewest = fewest_prompts(run.main) if run.main else None
    if fewest is not None:
        column, count = fewest
        listed.append(
            (
                "Few prompts, wide intervals",
                f"The smallest safety set ({column}) has {count} prompts: were none of them a hit, the true rate "
                f"could still be {percent(wilson(0, count)[1])}. Intervals are 95 % each, and are not "
                "widened for the many comparisons of a table.",
            )
        )
    if found:
        most = max(one.candidates for one in found)
        listed.append(
            (
                "The best row flatters itself",
                "The headline picks the best realigned row by the same prompts on which it is reported"
                + (f", of up to {most} rows" if most > 1 else "")
                + ". The tables show all of them.",
            )
        )
    seeds = len(run.study.seeds)
    if seeds:
        listed.append(
            (
                "One seed" if seeds == 1 else f"{seeds} seeds",
                "Intervals tell how the numbers would vary with other prompts, not with another training. "
                + (
                    "With one seed nothing is known of the latter; run the study with several."
                    if seeds == 1
                    else "Compare the rows of the seeds for the latter."
                ),
            )
        )
    listed += _judging(run, judges)
    if found:
        listed.append(
            (
                "Differences",
                "Before and after answer the same prompts, but the intervals of their differences take them for "
                "independent, which makes them rather too wide.",
            )
        )
    return listed


def fewest_prompts(table: Table) -> tuple[str, int] | None:
    """The safety column with the fewest prompts, and how many these are; None where no count is known.

    Args:
        table: The main table.
    """
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
        listed.append(
            (
                "No judge" if all(card.off for card in judges) else "Some results without a judge",
                "Refusals were told by their phrases alone, offline. Phrases miss refusals in other words and take "
                "some answers for refusals; an answer that does not refuse need not be harmful, and nonsense is no "
                "refusal either.",
            )
        )
    if any(not card.off for card in judges):
        unjudged = sum(card.unjudged for card in judges)
        listed.append(
            (
                "A judge errs",
                "Harm was judged by a model, which has its own errors and leanings; read some of the answers "
                "yourself."
                + (
                    f" {unjudged:,} answers stayed unjudged and count as neither harmful nor harmless."
                    * bool(unjudged)
                ),
            )
        )
    if not judges:
        what = "no results files are in the folder" if not (run.folder / "results").is_dir() else "they do not say"
        listed.append(("Judge unknown", f"How answers were judged cannot be told from this folder: {what}."))
    return listed
