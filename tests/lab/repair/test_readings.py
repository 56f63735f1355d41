"""Shares, numbers per token, and their differences, against brute force."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.metrics.rates import difference
from realign_plugin.lab.repair.readings import SkillReading, change, per_token, share, share_change

Pairs = list[tuple[bool, bool]]


def test_share_counts_the_known() -> None:
    found = share([True, None, False, True])
    assert found is not None
    assert (found.value, found.hits, found.count) == (2 / 3, 2, 3)
    assert 0 < found.low < 2 / 3 < found.high < 1
    assert share([None]) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_difference_lies_in_its_interval(pairs: Pairs) -> None:
    after, before = ([pair[number] for pair in pairs] for number in (0, 1))
    found = share_change(after, before)
    assert found is not None
    assert math.isclose(found.value, (sum(after) - sum(before)) / len(pairs), abs_tol=1e-12)
    assert found.low <= found.value <= found.high
    back = share_change(before, after)
    assert back is not None
    assert math.isclose(back.low, -found.high, abs_tol=1e-9)


def test_pairing_narrows_the_interval() -> None:
    """Models that mostly agree prompt by prompt differ with more certainty than two independent samples."""
    before = [number < 40 for number in range(100)]
    after = [number < 50 for number in range(100)]
    paired = share_change(after, before)
    independent = difference(50, 100, 40, 100)
    assert paired is not None
    assert paired.low > 0 > independent[1]


def test_newcombes_published_example() -> None:
    """Newcombe (1998), Table II, row c: 36 and 12 and 2 and 0 of 50; method 10 gives 0.0569 to 0.3404."""
    pairs = [(True, True)] * 36 + [(True, False)] * 12 + [(False, True)] * 2
    found = share_change([a for a, _ in pairs], [b for _, b in pairs])
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0569, abs=2e-4), pytest.approx(0.3404, abs=2e-4))


def rows(seed: int, loss: float) -> list[SkillReading]:
    rng = random.Random(seed)
    found = []
    for _ in range(80):
        tokens = rng.randint(1, 30)
        spread = [rng.gauss(loss, 0.3) for _ in range(tokens)]
        found.append(SkillReading(tokens=tokens, correct=rng.randint(0, tokens), loss=sum(spread), divergence=0.0))
    return found


def test_numbers_per_token_weigh_rows_by_their_tokens() -> None:
    two = [
        SkillReading(tokens=1, correct=1, loss=1.0, divergence=0.5),
        SkillReading(tokens=3, correct=0, loss=9.0, divergence=0.5),
    ]
    found = per_token(two, lambda row: row.loss)
    assert found is not None
    assert found.value == pytest.approx(2.5)
    assert (found.low, found.high) == (1.0, 3.0)
    assert per_token([], lambda row: row.loss) is None


def test_a_change_is_paired_by_rows() -> None:
    before = rows(0, 2.0)
    after = [row.model_copy(update={"loss": row.loss + 0.01 * row.tokens}) for row in before]
    found, alone = change(after, before, lambda row: row.loss), per_token(after, lambda row: row.loss)
    assert found is not None
    assert alone is not None
    assert found.value == pytest.approx(0.01)
    assert found.high - found.low < 1e-6 < alone.high - alone.low
