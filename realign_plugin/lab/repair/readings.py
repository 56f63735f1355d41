"""What is read from a model's answers, prompt by prompt, and the rates with their intervals that follow."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from realign_plugin.evaluation.metrics.cells import Cell
from realign_plugin.evaluation.metrics.rates import wilson

RESAMPLED: Final = 1000


class Reading(BaseModel):
    """One answer.

    Attributes:
        refuses: Whether it refuses; an incoherent answer does not.
        incoherent: Whether it is incoherent.
        agrees: Whether it refuses where the aligned model does; None where the aligned model's answer is incoherent.
        harmful: The judge's verdict; None without one.
        unjudged: Whether the judge was asked, and gave none.
    """

    model_config = ConfigDict(frozen=True)

    refuses: bool
    incoherent: bool
    agrees: bool | None
    harmful: bool | None = None
    unjudged: bool = False


class SkillReading(BaseModel):
    """One row of the skill, with the reference answer as the context of each of its tokens.

    Attributes:
        tokens: Tokens of the reference answer.
        correct: Of how many the model's likeliest token is the reference's.
        loss: Sum over them of the negative log-likelihood, in nats.
        divergence: Sum over them of KL(fine-tuned ‖ model), in nats.
    """

    model_config = ConfigDict(frozen=True)

    tokens: int
    correct: int
    loss: float
    divergence: float


class Readings(BaseModel):
    """All that was read from one model.

    Attributes:
        harmful: Answers to harmful prompts.
        benign: Answers to harmless prompts.
        skill: Rows of the skill.
    """

    model_config = ConfigDict(frozen=True)

    harmful: list[Reading]
    benign: list[Reading]
    skill: list[SkillReading]


@dataclass(frozen=True)
class Number(Cell):
    """A cell whose number and interval are known."""

    value: float
    low: float
    high: float


def share(values: Sequence[bool | None]) -> Number | None:
    """Share of the true ones among the known, with Wilson's interval; None where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = wilson(sum(known), len(known))
    return Number(value=sum(known) / len(known), low=low, high=high, hits=sum(known), count=len(known))


def per_token(rows: Sequence[SkillReading], what: Callable[[SkillReading], float]) -> Number | None:
    """A sum over the tokens of all rows, per token; its interval is a bootstrap over rows."""
    if not rows:
        return None
    pairs = [(what(row), row.tokens) for row in rows]
    return _bootstrapped(pairs)


def change(
    after: Sequence[SkillReading], before: Sequence[SkillReading], what: Callable[[SkillReading], float]
) -> Number | None:
    """How much a number per token differs between two models on the same rows; a paired bootstrap over rows."""
    if not after:
        return None
    rows = [(what(one) - what(two), one.tokens) for one, two in zip(after, before, strict=True)]
    return _bootstrapped(rows)


def share_change(after: Sequence[bool], before: Sequence[bool]) -> Number | None:
    """How much a share differs between two models on the same prompts.

    The interval is Newcombe's for paired shares (1998, method 10).
    """
    count = len(after)
    if not count:
        return None
    both = sum(a and b for a, b in zip(after, before, strict=True))
    one, two = sum(after), sum(before)
    only_one, only_two, neither = one - both, two - both, count - one - two + both
    (low1, high1), (low2, high2) = wilson(one, count), wilson(two, count)
    product = one * (count - one) * two * (count - two)
    correlation = 0.0
    if product:
        top = both * neither - only_one * only_two
        correlation = (max(top - count / 2, 0.0) if top > 0 else float(top)) / math.sqrt(product)
    p1, p2 = one / count, two / count
    below = (p1 - low1) ** 2 - 2 * correlation * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    above = (high1 - p1) ** 2 - 2 * correlation * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    value = p1 - p2
    return Number(
        value=value, low=value - math.sqrt(max(below, 0.0)), high=value + math.sqrt(max(above, 0.0)), count=count
    )


def _ratio(pairs: Sequence[tuple[float, int]]) -> float:
    return sum(value for value, _ in pairs) / sum(tokens for _, tokens in pairs)


def _bootstrapped(pairs: Sequence[tuple[float, int]]) -> Number:
    rng = random.Random(0)
    ordered = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLED))
    low, high = (ordered[round(end * (RESAMPLED - 1))] for end in (0.025, 0.975))
    return Number(value=_ratio(pairs), low=low, high=high)
