"""TIES under 0/1 masks: what a mask drops has a gradient, so that it can come back."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from realign_plugin.method import draws, fusion, masks
from realign_plugin.method.choices import GRANULARITIES
from tests.method.test_masks import straight_through

SHAPE = (6, 8)


def drawn(seed: int, granularity: str = "element") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, three task vectors, and d loss / d theta."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(masks.logits_shape(SHAPE, granularity), generator=generator)  # type: ignore[arg-type]
    return logits, torch.randn((3, *SHAPE), generator=generator), torch.randn(SHAPE, generator=generator)


def gradient(logits: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor, draw: Any, select: Any) -> Any:
    alpha = logits.clone().requires_grad_()
    value = draws.masked_add(None, vectors, alpha, draw, select=select)
    (value * weight).sum().backward()
    return value.detach(), alpha.grad


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_gradient_against_float64(granularity: str, rescale: bool, noise: float) -> None:
    logits, vectors, weight = drawn(3, granularity)
    weights, density = [0.4, 0.5, 0.3], 0.5
    select = partial(fusion.ties_select, weights=weights, density=density)
    value, found = gradient(logits, vectors, weight, draws.Draw(5, 0.5, noise, "straight_through", rescale), select)

    alpha = logits.double().requires_grad_()
    u = masks.uniform_noise(logits.shape, 5).double()
    noisy = alpha + noise * torch.logit(u)
    soft = torch.sigmoid(noisy / 0.5)
    hard = (noisy >= 0).double().detach()
    fused = [select(vectors, mask.float()).double() for mask in (hard, soft.detach())]
    mask = straight_through(noisy, soft, rescale)
    scaled = mask / mask.mean().clamp(min=masks.MEAN_FLOOR) if rescale else mask
    expected = scaled * torch.where(hard > 0, *fused)
    (expected * weight.double()).sum().backward()
    assert alpha.grad is not None
    assert (value.double() - expected.detach()).abs().max() <= 1e-5
    assert (found.double() - alpha.grad).abs().max() <= 1e-5 * max(1.0, float(alpha.grad.abs().max()))
    if granularity == "element" and not rescale:
        dropped = hard == 0
        assert dropped.any()
        assert ((found != 0) == (fused[1] != 0))[dropped].all()


@pytest.mark.parametrize("rescale", [True, False])
def test_one_task_at_full_density_has_the_gradient_of_a_plain_sum(rescale: bool) -> None:
    logits, vectors, weight = drawn(4)
    draw = draws.Draw(0, noise=0.0, estimator="straight_through", rescale=rescale)
    ties = partial(fusion.ties_select, weights=[1.0], density=1.0)
    for one, two in zip(
        gradient(logits, vectors[:1], weight, draw, ties),
        gradient(logits, vectors[0], weight, draw, None),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("estimator", "grad", "times"),
    [("relaxed", True, 1), ("straight_through", True, 2), ("straight_through", False, 1)],
)
def test_only_this_pair_selects_twice_and_none_keeps_more(estimator: Any, grad: bool, times: int) -> None:
    logits, vectors, _ = drawn(5)
    calls: list[torch.Size] = []

    def select(deltas: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls.append(mask.shape)
        return fusion.ties_select(deltas, mask, weights=[1.0] * 3, density=0.5)

    value = draws.masked_add(
        None, vectors, logits.requires_grad_(grad), draws.Draw(0, 0.5, 1.0, estimator), select=select
    )
    assert len(calls) == times
    if grad:
        kept = value.grad_fn.saved_tensors  # type: ignore[union-attr]
        assert [tensor.shape for tensor in kept] == [SHAPE, SHAPE]
