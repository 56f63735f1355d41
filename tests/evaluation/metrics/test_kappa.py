"""Cohen's kappa against published numbers, brute force and its edges."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.metrics.kappa import Kappa, agreement_of, kappa_of
from realign_plugin.evaluation.metrics.rates import INCOHERENT, NotAvailable, describe, pooled


def test_against_numbers_worked_out_by_hand() -> None:
    # 50 grants: both yes 20, only one 5, only the other 10, both no 15: observed 0.7, chance 0.5
    assert float(Kappa(20, 5, 10, 15)) == pytest.approx(0.4)
    assert float(Kappa(45, 15, 25, 15)) == pytest.approx(0.1304, abs=1e-4)
    assert float(Kappa(25, 35, 5, 35)) == pytest.approx(0.2593, abs=1e-4)
    assert float(Kappa(0, 5, 5, 0)) == pytest.approx(-1.0)


def test_the_interval_against_a_bootstrap() -> None:
    counts = (60, 12, 18, 110)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(sum(counts), np.array(counts) / sum(counts), size=4000)
    kappas = np.array([float(Kappa(*map(int, draw))) for draw in draws])
    assert Kappa(*counts).interval == pytest.approx(tuple(np.quantile(kappas, [0.025, 0.975])), abs=0.015)


def test_full_agreement_is_not_certainty() -> None:
    low, high = Kappa(5, 0, 0, 5).interval
    assert high == pytest.approx(1.0)
    assert 0.3 < low < 0.6
    assert Kappa(50, 0, 0, 50).interval[0] > 0.9


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(any))
def test_it_lies_in_its_interval_and_is_symmetric(counts: list[int]) -> None:
    both, first, second, neither = counts
    kappa = Kappa(both, first, second, neither)
    if kappa.undefined:
        assert math.isnan(kappa)
        return
    low, high = kappa.interval
    assert -1 - 1e-9 <= low <= kappa + 1e-9
    assert kappa - 1e-9 <= high <= 1 + 1e-9
    assert float(Kappa(both, second, first, neither)) == pytest.approx(float(kappa))
    assert float(Kappa(neither, first, second, both)) == pytest.approx(float(kappa))


def test_one_verdict_throughout_leaves_it_undefined_with_its_counts() -> None:
    kappa = kappa_of([(True, True)] * 3)
    assert describe(kappa) == {
        "not_available": "both give all 3 answers the same verdict, so that kappa is not defined",
        "both": 3, "first": 0, "second": 0, "neither": 0,
    }  # fmt: skip
    assert f"{kappa:.4f}" == "N/A"


def test_tasks_are_pooled_by_their_counts() -> None:
    whole = pooled([Kappa(20, 5, 10, 15), Kappa(0, 0, 0, 50)])
    assert isinstance(whole, Kappa)
    assert tuple(whole.counts.values()) == (20, 5, 10, 65)
    assert copy.deepcopy(whole).counts == whole.counts


def test_what_one_of_the_two_could_not_judge() -> None:
    values: list[Any] = [[True, True], [True, False], None, INCOHERENT, [False, False]]
    found = agreement_of(0.3)(values)
    assert isinstance(found, Kappa)
    assert found.count == 3
    assert isinstance(agreement_of(0.2)(values), NotAvailable)
    assert isinstance(agreement_of(0.5)([]), NotAvailable)
