"""One number of a results file with its 95 % interval, and the difference of two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from realign_plugin.evaluation.metrics.rates import Z95, difference, wilson

RIGHT_OR_WRONG: Final = ("exact_match", "acc", "acc_norm", "pass@1", "em")
"""Metrics that are a share of right answers."""
SHARES: Final = (*RIGHT_OR_WRONG, "f1", "prompt_level_strict_acc", "inst_level_strict_acc")
"""Metrics that lie between 0 and 1."""
NO_METRICS: Final = ("alias", "name", "sample_len", "sample_count")
"""Keys of a task's row that are not metrics of it."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Finite = Annotated[float | None, BeforeValidator(_finite)]
"""A number; NaN and infinity, which Python's JSON allows, are read as None."""


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval.

    Attributes:
        value: The number; None where it is not available.
        low: Low end, or None where no interval is known.
        high: High end.
        hits: What a rate was counted from.
        count: Of how many.
        reason: Why there is no number.
    """

    value: Finite = None
    low: Finite = None
    high: Finite = None
    hits: Finite = None
    count: Annotated[int | None, BeforeValidator(_finite)] = None
    reason: str | None = None

    def values(self) -> dict[str, Any]:
        """As JSON: without a reason where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "reason" or value}

    def text(self) -> str:
        """As a table shows it."""
        if self.value is None:
            return "N/A"
        ends = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{ends}"


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a file holds in its place."""
    try:
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if known else None
    except OverflowError:
        return None


def metric_keys(row: Mapping[str, Any]) -> list[str]:
    """The keys ``METRIC,FILTER`` of a task's row, as the file orders them; standard errors are left out."""
    return [
        key for key in row if key not in NO_METRICS and "_stderr" not in key.partition(",")[0] and "," in key
    ]  # lm-eval writes the metric and filter that the task puts first before the others


def skill_key(row: Mapping[str, Any]) -> str | None:
    """The key that stands for a task's skill: the first metric of its row, or None where it has none."""
    return next(iter(metric_keys(row)), None)


def safety_cell(value: Any, known: Mapping[str, Any]) -> Cell:
    """One of our rates or scores with the interval and counts that its results hold."""
    count, hits = known.get("count"), number(known.get("hits"))
    if type(count) is not int or count <= 0 or hits is None or not 0 <= hits <= count:
        count = hits = None
    return Cell(number(value), number(known.get("low")), number(known.get("high")), hits, count)


def skill_cell(row: Mapping[str, Any], key: str) -> Cell:
    """A task's skill with its interval: Wilson's where answers are right or wrong, else from lm-eval's standard error.

    Args:
        row: lm-eval's results of the task.
        key: ``METRIC,FILTER``.
    """
    metric, _, filter_name = key.partition(",")
    value, spread, count = number(row[key]), number(row.get(f"{metric}_stderr,{filter_name}")), row.get("sample_len")
    if value is None:
        return Cell(None)
    if metric in RIGHT_OR_WRONG and type(count) is int and count > 0 and 0 <= value <= 1:
        hits = round(value * count)
        if abs(hits - value * count) < 1e-6 * count:
            return Cell(value, *wilson(hits, count), hits, count)
    if spread is None:
        return Cell(value)
    low, high = value - Z95 * spread, value + Z95 * spread
    return Cell(value, max(0.0, low), min(1.0, high)) if metric in SHARES else Cell(value, low, high)


def difference_of(cell: Cell, first: Cell) -> dict[str, float] | None:
    """A cell minus the first, with a 95 % interval: Newcombe's where counts are known, else from both intervals."""
    if cell.value is None or first.value is None:
        return None
    if cell.hits is not None and first.hits is not None and cell.count and first.count:
        value, low, high = difference(cell.hits, cell.count, first.hits, first.count)
        return {"value": value, "low": low, "high": high}
    value = cell.value - first.value
    if cell.low is None or cell.high is None or first.low is None or first.high is None:
        return {"value": value}
    low = value - math.hypot(cell.value - cell.low, first.high - first.value)
    high = value + math.hypot(cell.high - cell.value, first.value - first.low)
    return {"value": value, "low": low, "high": high}
