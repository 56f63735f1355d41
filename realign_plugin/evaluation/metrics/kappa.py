"""How far two judges, or a judge and people, agree beyond chance: Cohen's kappa (1960) with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from realign_plugin.evaluation.metrics.rates import INCOHERENT, NOT_AVAILABLE, Z95, Counted, why_missing, wilson


class Kappa(Counted):
    """Cohen's kappa of two yes-or-no judgements; not a number where chance alone explains all agreement.

    Attributes:
        both: Answers that both say yes to.
        first: Those that only the first does.
        second: Those that only the second does.
        neither: Those that neither does.
    """

    both: int
    first: int
    second: int
    neither: int

    def __new__(cls, both: int, first: int, second: int, neither: int) -> Kappa:
        """(observed - chance) / (1 - chance), of at least one answer."""
        observed, chance = _shares(both, first, second, neither)
        self = super().__new__(cls, math.nan if chance == 1 else (observed - chance) / (1 - chance))
        self.both, self.first, self.second, self.neither = both, first, second, neither
        return self

    @property
    def count(self) -> int:
        """How many answers both judged."""
        return int(sum(self.counts.values()))

    @property
    def undefined(self) -> str | None:
        """Where both give one and the same verdict throughout."""
        one = f"both give all {self.count} answers the same verdict, so that kappa is not defined"
        return one if math.isnan(self) else None

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of Fleiss, Cohen and Everitt (1969); where that has no width, from the share of agreement."""
        n, kappa = self.count, float(self)
        a, b, c, d = (value / n for value in self.counts.values())
        observed, chance = _shares(self.both, self.first, self.second, self.neither)
        yes, no = (a + b, a + c), (c + d, b + d)
        agree = a * (1 - sum(yes) * (1 - kappa)) ** 2 + d * (1 - sum(no) * (1 - kappa)) ** 2
        differ = (1 - kappa) ** 2 * (b * (yes[1] + no[0]) ** 2 + c * (no[1] + yes[0]) ** 2)
        variance = (agree + differ - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
        if variance > 1e-12:
            spread = Z95 * math.sqrt(variance)
            return max(-1.0, kappa - spread), min(1.0, kappa + spread)
        low, high = ((end - chance) / (1 - chance) for end in wilson(observed * n, n))
        return max(-1.0, low), min(1.0, high)

    def __format__(self, spec: str) -> str:
        """N/A where it is not defined."""
        return NOT_AVAILABLE if math.isnan(self) else super().__format__(spec)


def _shares(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Observed and chance agreement."""
    n = both + first + second + neither
    chance = ((both + first) * (both + second) + (second + neither) * (first + neither)) / n**2
    return (both + neither) / n, chance


def kappa_of(pairs: Sequence[Any]) -> Kappa:
    """Kappa of pairs of judgements.

    Args:
        pairs: At least one pair: whether the first says yes, whether the second does.
    """
    kinds = [(bool(first), bool(second)) for first, second in pairs]
    return Kappa(*(kinds.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def agreement_of(limit: float) -> Callable[[Sequence[Any]], float]:
    """Kappa of pairs of judgements; N/A where more than ``limit`` of the coherent answers lack one (None)."""

    def judge_kappa(values: Sequence[Any]) -> float:
        known = [value for value in values if value is not None and value != INCOHERENT]
        return why_missing(values, limit) or kappa_of(known)

    return judge_kappa
