"""Fusions against loops in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.reference as reference
from realign_plugin.method import fusion


def vectors(seed: int, tasks: int = 3) -> torch.Tensor:
    return torch.randn((tasks, 4, 6), generator=torch.Generator().manual_seed(seed))


def plain_ties(v: torch.Tensor, density: float) -> torch.Tensor:
    """TIES of vectors that no mask is on."""
    return fusion.ties_select(v, torch.ones(()), weights=[1.0] * len(v), density=density)


def test_default_weights() -> None:
    assert fusion.default_task_weight("task_arithmetic", 1) == 1.0
    assert fusion.default_task_weight("ties", 1) == 1.0
    assert fusion.default_task_weight("task_arithmetic", 3) == 0.3
    assert fusion.default_task_weight("dare", 2) == 0.3
    assert fusion.default_task_weight("ties", 2) == 0.4
    assert fusion.default_task_weight("average", 4) == 1.0


@given(st.integers(0, 999), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_ties_is_the_loop(seed: int, density: float) -> None:
    v = vectors(seed)
    expected = reference.ties(v.double().numpy(), density)
    assert np.abs(plain_ties(v, density).double().numpy() - expected).max() < 1e-6


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_selected_delta_times_mask_is_ties_of_masked_vectors(seed: int) -> None:
    deltas, weights = vectors(seed), [0.4, 0.7, 0.2]
    mask = torch.rand((4, 6), generator=torch.Generator().manual_seed(seed + 1))
    chosen = fusion.ties_select(deltas, mask, weights=weights, density=0.4)
    masked = deltas.double().numpy() * mask.double().numpy() * np.array(weights).reshape(3, 1, 1)
    assert np.abs((chosen * mask).double().numpy() - reference.ties(masked, 0.4)).max() < 1e-6


def test_one_task_at_full_density_is_itself() -> None:
    v = vectors(1, tasks=1)
    assert torch.equal(plain_ties(v, 1.0), v[0])


def test_dare_drops_and_rescales() -> None:
    delta = torch.ones(100, 100)
    dropped = fusion.dare_drop(delta, 0.2, seed=4)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(dropped, fusion.dare_drop(delta, 0.2, seed=4))
    assert not torch.equal(dropped, fusion.dare_drop(delta, 0.2, seed=5))


def test_dare_drops_each_task_on_its_own() -> None:
    ones = [torch.ones(50, 50), torch.ones(50, 50)]
    fused = fusion.collapse(ones, "dare", [1.0, 1.0], dare_drop_rate=0.5, seed=1, name="m.A")
    assert set(fused.unique().tolist()) == {0.0, 2.0, 4.0}


def test_average_divides_by_the_number_of_tasks() -> None:
    v = vectors(2)
    fused = fusion.collapse(list(v), "average", [1.0, 1.0, 1.0])
    assert torch.allclose(fused, v.mean(0), atol=1e-7)


def test_weights_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        fusion.weighted_sum(list(vectors(3)), [1.0])


def test_ties_does_not_collapse() -> None:
    with pytest.raises(ValueError, match="fusion 'ties' does not collapse"):
        fusion.collapse(list(vectors(3)), "ties", [1.0] * 3)


def test_trim_keeps_at_least_one_element() -> None:
    assert int(fusion.trim(vectors(5), 0.001).sum()) == 3
