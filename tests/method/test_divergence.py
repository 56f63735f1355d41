"""The divergence against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realign_plugin.method.divergence import DIVERGENCES, token_divergence


def oracle(logits: torch.Tensor, divergence: str, temperature: float) -> torch.Tensor:
    student, teacher = torch.log_softmax(logits.double() / temperature, dim=-1)
    pair = (student, teacher) if divergence == "forward" else (teacher, student)
    found = torch.nn.functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)
    return found * temperature**2


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DIVERGENCES),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 7),
    st.integers(1, 40),
    st.sampled_from([1, 64, 1 << 22]),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(0, 10**6),
)
def test_value_and_gradient_are_autograds(
    divergence: Any, temperature: float, tokens: int, vocabulary: int, block: int, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, tokens, vocabulary, generator=generator)
    upstream = torch.rand(tokens, generator=generator)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = token_divergence(ours, divergence, temperature, block)
    expected = oracle(theirs, divergence, temperature)
    assert found.dtype == torch.float32
    near = 1e-6 * max(10.0, spread / temperature)  # fp32 rounds larger logits more coarsely
    torch.testing.assert_close(found.double(), expected, atol=near, rtol=1e-4)
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert not ours.grad[1].any()  # type: ignore[index]
    torch.testing.assert_close(ours.grad[0], theirs.grad[0], atol=near, rtol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_distributions_have_none(divergence: Any, dtype: torch.dtype) -> None:
    logits = (10 * torch.randn(1, 5, 300, generator=torch.Generator().manual_seed(0))).to(dtype)
    both = torch.cat([logits, logits]).requires_grad_()
    found = token_divergence(both, divergence)
    assert found.abs().max() < 1e-6
    found.sum().backward()
    assert both.grad is not None
    assert both.grad.dtype == dtype
    assert both.grad.abs().max() < 1e-6


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extreme_logits_stay_finite(divergence: Any) -> None:
    logits = torch.tensor([[[1e4, 0.0, -1e4]], [[-1e4, 0.0, 1e4]]], requires_grad=True)
    found = token_divergence(logits, divergence)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
