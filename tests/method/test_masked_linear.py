"""A linear map by masked parameters against plain autograd in float64, and what it keeps for the backward pass."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from realign_plugin.method import draws, masks
from realign_plugin.method.choices import ESTIMATORS, GRANULARITIES
from realign_plugin.method.masked_linear import masked_linear
from tests.method.test_masks import straight_through

ROWS, COLUMNS = 6, 10


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts(granularity: Any = "element") -> tuple[torch.Tensor, ...]:
    """Input, logits, aligned parameters, task vector."""
    shape = masks.logits_shape((ROWS, COLUMNS), granularity)
    return numbers(2, 3, COLUMNS, seed=1), numbers(*shape, seed=2), numbers(ROWS, COLUMNS, seed=3), numbers(
        1, ROWS, COLUMNS, seed=4
    )  # fmt: skip


def plain(
    x: torch.Tensor, logits: torch.Tensor, aligned: torch.Tensor | None, deltas: torch.Tensor, draw: draws.Draw
) -> torch.Tensor:
    """The same by autograd, in float64."""
    u = masks.uniform_noise(logits.shape, draw.seed).double()
    noisy = logits + draw.noise * (torch.log(u) - torch.log1p(-u))
    soft = torch.sigmoid(noisy / draw.temperature)
    mask = straight_through(noisy, soft, draw.rescale) if draw.estimator == "straight_through" else soft
    if draw.rescale:
        mask = mask / mask.mean().clamp(min=masks.MEAN_FLOOR)
    theta = deltas[0].double() * mask + (0.0 if aligned is None else aligned.double())
    return functional.linear(x, theta)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("temperature", "noise"), [(0.5, 1.0), (0.5, 0.0), (0.9, 0.3)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("with_aligned", [True, False])
def test_product_and_gradients_are_those_of_plain_autograd(
    granularity: str, estimator: Any, temperature: float, noise: float, rescale: bool, with_aligned: bool
) -> None:
    x, logits, aligned, deltas = parts(granularity)
    safe = aligned if with_aligned else None
    draw = draws.Draw(11, temperature, noise, estimator, rescale)
    ours = [t.clone().requires_grad_() for t in (x, logits)]
    theirs = [t.double().requires_grad_() for t in (x, logits)]
    value = masked_linear(*ours, safe, deltas, draw)
    expected = plain(*theirs, safe, deltas, draw)
    weight = numbers(2, 3, ROWS, seed=5)
    (value * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    pairs = [(value.detach(), expected.detach())]
    pairs += [(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True)]  # type: ignore[misc]
    for found, wanted in pairs:
        assert (found.double() - wanted).abs().max() / max(1.0, float(wanted.abs().max())) < 1e-6


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_of_adapters_in_float64_are_those_of_plain_autograd(estimator: Any) -> None:
    x, logits, aligned, deltas = (tensor.double() for tensor in parts())
    draw = draws.Draw(11, estimator=estimator)
    theirs = logits.clone().requires_grad_()
    plain(x, theirs, aligned, deltas, draw).sum().backward()
    added, multiplied = (logits.float().requires_grad_() for _ in range(2))
    functional.linear(x.float(), draws.masked_add(aligned, deltas[0], added, draw)).sum().backward()
    masked_linear(x.float(), multiplied, aligned, deltas, draw).sum().backward()
    for ours in (added, multiplied):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() / max(1.0, float(theirs.grad.abs().max())) < 1e-6


def test_it_is_the_linear_map_of_masked_add() -> None:
    x, logits, aligned, deltas = parts()
    draw = draws.Draw(5)
    theta = draws.masked_add(aligned, deltas[0], logits, draw)
    assert torch.equal(masked_linear(x, logits, aligned, deltas, draw), functional.linear(x, theta))


def test_nothing_but_its_arguments_is_kept_for_the_backward_pass() -> None:
    x, logits, aligned, deltas = parts()
    arguments = {t.data_ptr() for t in (x, logits, aligned, deltas)}
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        masked_linear(x.requires_grad_(), logits.requires_grad_(), aligned, deltas, draws.Draw(1)).sum().backward()
    assert kept
    assert set(kept) <= arguments


def test_an_input_without_gradient_gets_none() -> None:
    x, logits, aligned, deltas = parts()
    masked_linear(x, logits.requires_grad_(), aligned, deltas, draws.Draw(1)).sum().backward()
    assert x.grad is None
    assert logits.grad is not None
    assert aligned.grad is None
    assert deltas.grad is None


def test_autocast_multiplies_in_its_dtype_and_gives_gradients_in_the_logits_dtype() -> None:
    x, logits, aligned, deltas = parts()
    draw = draws.Draw(3)
    x.requires_grad_()
    logits.requires_grad_()
    theta = draws.masked_add(aligned, deltas[0], logits.detach(), draw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = masked_linear(x, logits, aligned, deltas, draw)
        expected = functional.linear(x.detach(), theta)
    assert value.dtype == torch.bfloat16
    assert torch.equal(value, expected)
    value.float().sum().backward()
    assert logits.grad is not None
    assert x.grad is not None
    assert logits.grad.dtype == x.grad.dtype == torch.float32
    exact_x, exact_logits = (t.detach().double().requires_grad_() for t in (x, logits))
    plain(exact_x, exact_logits, aligned, deltas, draw).sum().backward()
    assert exact_logits.grad is not None
    assert (logits.grad - exact_logits.grad).abs().max() < 0.02 * float(exact_logits.grad.abs().max())


def test_a_bf16_input_is_multiplied_in_fp32_unless_asked_otherwise() -> None:
    x, logits, aligned, deltas = parts()
    draw = draws.Draw(3)
    low = x.bfloat16().requires_grad_()
    assert masked_linear(low, logits, aligned, deltas, draw).dtype == torch.float32
    value = masked_linear(low, logits.requires_grad_(), aligned, deltas, draw, torch.bfloat16)
    assert value.dtype == torch.bfloat16
    value.float().sum().backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_draws_the_same_masks(reentrant: bool) -> None:
    x, logits, aligned, deltas = parts()

    def layer(value: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return masked_linear(value, alpha, aligned, deltas, draws.Draw(masks.draw_seed()))

    found = []
    for again in (False, True):
        value, alpha = x.clone().requires_grad_(), logits.clone().requires_grad_()
        torch.manual_seed(3)
        out = checkpoint(layer, value, alpha, use_reentrant=reentrant) if again else layer(value, alpha)
        out.square().sum().backward()
        assert value.grad is not None
        assert alpha.grad is not None
        found.append((value.grad, alpha.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Operations(TorchDispatchMode):
    """Counts what a GPU would have to start a kernel for."""

    FREE: ClassVar = {
        "detach",
        "empty",
        "new_empty",
        "ones_like",
        "permute",
        "select",
        "t",
        "unsqueeze",
        "view",
        "_unsafe_view",
    }

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        self.names += [] if name in self.FREE else [name]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "no aligned adapter"])
def test_a_mask_without_noise_is_few_operations(aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, theta, delta = (torch.randn(8, 16, generator=generator) for _ in range(3))
    x = torch.randn(3, 16, generator=generator).bfloat16().requires_grad_()
    draw = draws.Draw(1, temperature=1.0, noise=0.0)
    with Operations() as forward:
        out = masked_linear(x, logits.requires_grad_(), theta if aligned else None, delta[None], draw, torch.bfloat16)
    with Operations() as backward:
        out.backward(torch.ones_like(out))
    assert len(forward.names) == 7, forward.names  # one of them the product with x
    assert len(backward.names) == 16, backward.names  # two of them products
