"""Rates, intervals and what is not available, against hand computations and brute force."""

from __future__ import annotations

import copy
import json
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.metrics.rates import (
    INCOHERENT,
    Mean,
    NotAvailable,
    Rate,
    Score,
    describe,
    difference,
    judged_share,
    pooled,
    preference_score,
    share,
    wilson,
)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 100, 0.0018, 0.0545), (0, 0, 0.0, 1.0)],
)
def test_wilson_against_published_values(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_newcombe_against_the_paper() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80 and 9/10 - 3/10
    assert difference(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert difference(9, 10, 3, 10) == pytest.approx((0.6, 0.1705, 0.8090), abs=1e-4)
    assert all(math.isnan(x) for x in difference(0, 0, 1, 2))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_hold_the_share(pair: tuple[int, int]) -> None:
    hits, count = pair
    low, high = wilson(hits, count)
    assert 0.0 <= low <= hits / count + 1e-12
    assert hits / count - 1e-12 <= high <= 1.0


def test_the_interval_covers_the_truth_about_95_times_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    for p in (0.05, 0.3, 0.8):
        hits = rng.binomial(60, p, size=4000)
        inside = sum(wilson(int(h), 60)[0] <= p <= wilson(int(h), 60)[1] for h in hits)
        assert 0.92 <= inside / 4000 <= 0.98


def test_rates_of_what_was_judged() -> None:
    rate = judged_share(0.25)([1.0, 0.0, 0.0, None])
    assert isinstance(rate, Rate)
    assert (float(rate), rate.hits, rate.count) == (pytest.approx(1 / 3), 1.0, 3)
    missing = judged_share(0.2)([1.0, 0.0, 0.0, None])
    assert isinstance(missing, NotAvailable)
    assert missing.reason == "1 of 4 answers unjudged, at most 20% allowed"
    assert isinstance(judged_share(1.0)([None, None]), NotAvailable)
    assert isinstance(judged_share(1.0)([]), NotAvailable)


def test_incoherent_answers_are_neither() -> None:
    rate = judged_share(0.1)([1.0, 0.0, INCOHERENT, INCOHERENT])
    assert isinstance(rate, Rate)
    assert (rate.hits, rate.count) == (1.0, 2)
    missing = judged_share(0.4)([1.0, None, *[INCOHERENT] * 8])  # they are no alibi for what stayed unjudged
    assert isinstance(missing, NotAvailable)
    assert missing.reason == "1 of 2 answers unjudged, at most 40% allowed"
    nothing = judged_share(1.0)([INCOHERENT] * 3)
    assert isinstance(nothing, NotAvailable)
    assert nothing.reason == "none of 3 answers is coherent"
    assert float(preference_score(0.0)(["win", "loss", "win", INCOHERENT])) == pytest.approx(100 / 3)


def test_preference_scores() -> None:
    score = preference_score(0.5)(["win", "win", "loss", "draw", None])
    assert isinstance(score, Score)
    assert float(score) == pytest.approx(25.0)
    low, high = score.interval
    assert -100 <= low < 25 < high <= 100
    assert score.interval == score.interval
    assert isinstance(preference_score(0.1)(["win", None]), NotAvailable)
    assert isinstance(preference_score(1.0)([None]), NotAvailable)


def test_not_available_prints_as_such() -> None:
    missing = NotAvailable("why")
    assert f"{missing:.4f}" == "N/A"
    assert str(missing) == "N/A"
    assert math.isnan(missing)


def test_copies_remember_what_they_were_counted_from() -> None:
    for value in (Rate(1, 4), Score(2, 1, 1), NotAvailable("why")):
        again = copy.deepcopy(value)
        assert type(again) is type(value)
        assert vars(again) == vars(value)
        assert describe(again) == describe(value)


def test_pooling_counts_every_answer_once() -> None:
    both = pooled([Rate(1, 10), Rate(30, 40)])
    assert float(both) == pytest.approx(31 / 50)
    scores = pooled([Score(1, 0, 0), Score(0, 2, 1)])
    assert float(scores) == pytest.approx(100 * (1 - 2) / 4)
    assert isinstance(pooled([Rate(1, 2), NotAvailable("x")]), NotAvailable)
    assert isinstance(pooled([Rate(1, 2), 0.5]), NotAvailable)
    assert isinstance(pooled([]), NotAvailable)


def test_what_the_results_file_says() -> None:
    rate = describe(Rate(1, 4))
    assert rate is not None
    assert rate == {**rate, "hits": 1, "count": 4}
    assert (rate["low"], rate["high"]) == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert describe(NotAvailable("why")) == {"not_available": "why"}
    described = describe(Score(2, 1, 1))
    assert described is not None
    assert (described["wins"], described["losses"], described["draws"]) == (2, 1, 1)
    assert describe(0.5) is None
    assert json.loads(json.dumps({"rate": Rate(1, 4)})) == {"rate": 0.25}
    assert share([1, 0, None, 1]) == pytest.approx(2 / 3)


def test_scores_in_between_have_a_mean_with_its_own_interval() -> None:
    values = [0.25, 0.5] * 50
    mean = judged_share(0.1)(values)
    assert isinstance(mean, Mean)
    assert mean == pytest.approx(0.375)
    low, high = mean.interval
    assert (high - low) / 2 == pytest.approx(1.96 * statistics.stdev(values) / 10, rel=1e-3)
    assert set(describe(mean) or {}) == {"low", "high", "total", "squares", "count"}
    both = pooled([mean, Rate(3, 4)])  # scores that all happen to be 0 or 1
    assert isinstance(both, Mean)
    assert (both.total, both.squares, both.count) == (40.5, 15.625 + 3, 104)
    assert copy.deepcopy(both).interval == both.interval
    assert Mean(0.5, 0.25, 1).interval == (0.0, 1.0)
