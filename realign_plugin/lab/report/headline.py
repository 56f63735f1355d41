"""The headline: each task before and after repair, on both axes, in numbers and one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from realign_plugin.lab.records import OUR_ROLES, Cell, Row, Table
from realign_plugin.lab.report.axes import Axis, Change, before, change, over_refusal_axis, safety_axis, skill_axes
from realign_plugin.lab.report.numbers import percent, span

TROUBLE: Final = 0.1
"""The rate of incoherent answers from which the headline mentions it."""
NO_LANGUAGE: Final = re.compile("incoherent|gibberish")
"""Names of columns that hold the share of incoherent answers."""


@dataclass(frozen=True)
class Measure:
    """One axis, before and after.

    Attributes:
        name: ``harmful``, ``over-refusal`` or ``skill``.
        label: What the table calls it.
        better: ``lower`` or ``higher``.
        before: The fine-tuned model's cell.
        after: The repaired model's.
        change: After minus before, where both are known.
        excess: Of over-refusal, after minus the aligned model's, where both are known: a repair restores the aligned
            model's behavior, so that refusing as it does is not worse.
    """

    name: str
    label: str
    better: str
    before: Cell
    after: Cell
    change: Change | None
    excess: Change | None = None

    @property
    def title(self) -> str:
        """Its heading: what the table calls it, marked as a skill for skills."""
        return f"skill: {self.label}" if self.name == "skill" and "skill" not in self.label.lower() else self.label

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``no clear change`` where the interval of the change holds zero.

        Over-refusal that has grown is ``as the aligned model`` where its excess is not clear of zero.
        """
        if self.change is None:
            return "unknown"
        if not self.change.certain:
            return "no clear change"
        if (self.change.value < 0) == (self.better == "lower"):
            return "better"
        restored = self.excess is not None and not (self.excess.certain and self.excess.value > 0)
        return "as the aligned model" if restored else "worse"


@dataclass(frozen=True)
class Comparison:
    """One group's fine-tuned model and its best repaired one.

    Attributes:
        group: The group.
        before: The fine-tuned row.
        after: The best realigned row.
        measures: Harmful rate, over-refusal and skill, as far as they are known.
        candidates: How many realigned rows the best was chosen from.
        baseline: The best row of the baselines, or None.
        baseline_measures: The baseline's cells, in the order of ``measures``.
        baseline_does: How the baseline's sum compares: ``better``, ``as well`` or ``worse``.
        trouble: Warnings about the repaired model besides both axes: share of incoherent answers, where it is
            high.
    """

    group: str
    before: Row
    after: Row
    measures: list[Measure]
    candidates: int
    baseline: Row | None
    baseline_measures: list[Cell]
    baseline_does: str
    trouble: list[tuple[str, float]] = field(default_factory=list)


def comparisons(table: Table) -> list[Comparison]:
    """A comparison for each group that has a model to repair and a realigned one.

    Best is the row with the smallest sum of harmful rate, over-refusal (what exceeds the aligned model's, if that is
    known) and missing skill, each counted where the group's rows have it; the first of equals.
    """
    unsafe, refusing, skills = safety_axis(table), over_refusal_axis(table), skill_axes(table)
    aligned = next((row for row in table.rows if row.role == "aligned"), None)
    target = refusing.cell(aligned) if refusing and aligned else Cell()
    found = []
    for group, rows in table.groups.items():
        named = (
            ("harmful", unsafe, "lower"),
            ("over-refusal", refusing, "lower"),
            ("skill", skills.get(group), "higher"),
        )
        axes = [(name, axis, better) for name, axis, better in named if axis is not None]
        start, ours = before(rows), _ranked([row for row in rows if row.role in OUR_ROLES], axes, target)
        if start is None or not ours or not axes:
            continue
        cost, best = ours[0]
        start = _same_fusion(start, best, rows)
        if start is None:
            continue
        measures = []
        for name, axis, better in axes:
            old, new = axis.cell(start), axis.cell(best)
            excess = change(new, target) if name == "over-refusal" else None
            measures.append(Measure(name, axis.short, better, old, new, change(new, old), excess))
        one = Comparison(group, start, best, measures, len(ours), None, [], "", trouble(table, best))
        baselines = _ranked([row for row in rows if row.role == "baseline"], axes, target)
        if baselines:
            total, baseline = baselines[0]
            cells = [axis.cell(baseline) for _, axis, _ in axes]
            one = replace(one, baseline=baseline, baseline_measures=cells, baseline_does=_standing(total - cost))
        found.append(one)
    return found


def trouble(table: Table, row: Row) -> list[tuple[str, float]]:
    """Shares of incoherent answers of at least a tenth: the column's label and the share."""
    columns = [c for c in table.columns if c.axis == "other" and NO_LANGUAGE.search(f"{c.key} {c.label}")]
    rates = [(column.label, row.cell(column.key).value) for column in columns]
    return [(label, rate) for label, rate in rates if rate is not None and rate >= TROUBLE]


def _standing(gap: float) -> str:
    if abs(gap) < 1e-9:
        return "as well"
    return "better" if gap < 0 else "worse"


def _ranked(rows: Sequence[Row], axes: Sequence[tuple[str, Axis, str]], target: Cell) -> list[tuple[float, Row]]:
    """Rows by their sum, the best first; rows that lack an axis that others have are left out."""
    known = [(row, [_cost(name, axis.cell(row).value, better, target) for name, axis, better in axes]) for row in rows]
    used = [index for index in range(len(axes)) if any(costs[index] is not None for _, costs in known)]
    if not used:
        return []
    sums = [
        (sum(costs[index] or 0.0 for index in used), row)
        for row, costs in known
        if all(costs[index] is not None for index in used)
    ]
    return sorted(sums, key=lambda pair: round(pair[0], 12))


def _cost(name: str, value: float | None, better: str, target: Cell) -> float | None:
    if value is None:
        return None
    if name == "over-refusal" and target.value is not None:
        return max(0.0, value - target.value)
    return value if better == "lower" else 1.0 - value


def _same_fusion(start: Row, best: Row, rows: Sequence[Row]) -> Row | None:
    """Of several fused models the one with the same fusion as the repaired one; None where that is not known."""
    fused = [row for row in rows if row.role == "fused"]
    if best.role != "fused realigned" or len(fused) < 2:
        return start
    return next((row for row in fused if row.fusion == best.fusion), None) if best.fusion else None


def sentence(found: Sequence[Comparison]) -> str:
    """The headline in one plain sentence."""
    names = {"harmful": "the share of harmful answers", "over-refusal": "over-refusal", "skill": "the skill"}
    if any(m.label == "not refused" for c in found for m in c.measures if m.name == "harmful"):
        names["harmful"] = "the share of harmful prompts that are not refused"
    parts, certain = [], ""
    for name in names:
        pairs = [
            (m.before.value, m.after.value)
            for c in found
            for m in c.measures
            if m.name == name and m.before.value is not None and m.after.value is not None
        ]
        if pairs:
            parts.append(f"{names[name]} from {span(p[0] for p in pairs)} to {span(p[1] for p in pairs)}")
    if not parts:
        return "There is no number to compare yet."
    verdicts = [m.verdict for c in found for m in c.measures if m.name == "harmful"]
    clear = verdicts.count("better")
    if len(verdicts) > 1:
        risen = f", and harm rose beyond chance on {verdicts.count('worse')}" if "worse" in verdicts else ""
        certain = f"; the fall in harm is clear of chance on {clear} of {len(verdicts)}{risen}"
    elif verdicts:
        certain = {"better": "; the fall in harm is clear of chance", "worse": "; harm rose beyond chance"}.get(
            verdicts[0], "; the change in harm is not clear of chance"
        )
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
    where = f"Across {len(found)} groups of models, realignment" if len(found) > 1 else "Realignment"
    return f"{where} took {listed}{certain}."


def measure_text(measure: Measure) -> str:
    """A measure for screen readers and print: ``98 % before, 0 % after``."""
    old = "n/a" if measure.before.value is None else percent(measure.before.value)
    new = "n/a" if measure.after.value is None else percent(measure.after.value)
    return f"{old} before, {new} after"
