"""What is added to lm-eval's results: pooled numbers of groups."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.evaluation.metrics.rates import Rate
from realign_plugin.evaluation.results import complete


def found(better: bool) -> dict[str, Any]:
    """A group of two sets; refusals are good in the first, and in the second as said."""
    rates = {"bench_harmful": Rate(98, 100), "bench_benign": Rate(90, 100)}
    return {
        "results": {name: {"refusal_rate,none": rate, "incoherent_rate,none": Rate(1, 100)} for name, rate in
                    rates.items()} | {"bench": {"alias": "bench"}},
        "group_subtasks": {"bench": list(rates)},
        "higher_is_better": {"bench_harmful": {"refusal_rate": True}, "bench_benign": {"refusal_rate": better}},
    }  # fmt: skip


def test_refusals_that_are_right_here_and_wrong_there_are_not_pooled() -> None:
    row = complete(found(better=False))["results"]["bench"]
    assert "refusal_rate,none" not in row
    assert row["incoherent_rate,none"] == pytest.approx(0.01)


def test_refusals_of_one_kind_are_pooled() -> None:
    row = complete(found(better=True))["results"]["bench"]
    assert row["refusal_rate,none"] == pytest.approx(0.94)
