"""Mask maths against float64, autograd and brute force."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.reference as reference
from realign_plugin.method import draws, fusion, masks
from realign_plugin.method.choices import ESTIMATORS, GRANULARITIES

SHAPE = (5, 7)


def matrices(seed: int, granularity: str = "element", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(masks.logits_shape(SHAPE, granularity), generator=generator, dtype=dtype)  # type: ignore[arg-type]
    aligned = torch.randn(SHAPE, generator=generator, dtype=dtype)
    delta = torch.randn(SHAPE, generator=generator, dtype=dtype)
    return logits, aligned, delta


def straight_through(noisy: torch.Tensor, soft: torch.Tensor, rescale: bool) -> torch.Tensor:
    """The 0/1 mask with the relaxed one's gradient, which is bounded where the mask is divided by its mean."""
    hard = (noisy.detach() >= 0).double()
    most, found = (1.0 / mask.detach().mean().clamp(min=masks.MEAN_FLOOR) for mask in (soft, hard))
    bound = (draws.MOST_SURGE * most / found).clamp(max=1.0) if rescale else 1.0
    return hard + bound * (soft - soft.detach())


def plain(
    aligned: torch.Tensor | None,
    delta: torch.Tensor,
    logits: torch.Tensor,
    *,
    seed: int,
    temperature: float,
    noise: float,
    estimator: str,
    rescale: bool,
) -> torch.Tensor:
    """The fused step by plain float64 autograd."""
    u = masks.uniform_noise(logits.shape, seed).double()
    x = logits + noise * (torch.log(u) - torch.log1p(-u)) if noise else logits
    soft = torch.sigmoid(x / temperature)
    mask = straight_through(x, soft, rescale) if estimator == "straight_through" else soft
    if rescale:
        mask = mask / mask.mean().clamp(min=masks.MEAN_FLOOR)
    return delta * mask + (0.0 if aligned is None else aligned)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("temperature", "noise"), [(0.5, 1.0), (0.5, 0.0), (0.9, 1.0), (0.5, 0.3)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("with_aligned", [True, False])
def test_masked_add_is_plain_autograd(
    granularity: str, estimator: str, temperature: float, noise: float, rescale: bool, with_aligned: bool
) -> None:
    logits, aligned, delta = matrices(1, granularity)
    safe = aligned if with_aligned else None
    options = {"seed": 11, "temperature": temperature, "noise": noise, "estimator": estimator, "rescale": rescale}
    ours = logits.clone().requires_grad_()
    value = draws.masked_add(safe, delta, ours, draws.Draw(**options))  # type: ignore[arg-type]
    theirs = logits.double().requires_grad_()
    expected = plain(None if safe is None else safe.double(), delta.double(), theirs, **options)  # type: ignore[arg-type]
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    (value * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    scale = max(1.0, float(expected.detach().abs().max()))
    assert (value.double() - expected).abs().max() / scale < 1e-6
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad.double() - theirs.grad).abs().max() / max(1.0, float(theirs.grad.abs().max())) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_ties_gradient_is_that_of_finite_differences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn((3, 6, 8), generator=generator)
    logits = torch.randn((6, 8), generator=generator)
    weight = torch.randn((6, 8), generator=generator)
    select = partial(fusion.ties_select, weights=[0.4, 0.5, 0.3], density=0.5)

    def loss(alpha: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        value = draws.masked_add(None, vectors, alpha, draws.Draw(4), select=select)
        return (value.double() * weight.double()).sum()

    alpha = logits.clone().requires_grad_()
    loss(alpha, deltas).backward()
    found = torch.zeros(48, dtype=torch.float64)
    h = 1e-3
    for i in range(48):
        step = torch.zeros(48)
        step[i] = h
        up, down = loss(logits + step.view(6, 8), deltas), loss(logits - step.view(6, 8), deltas)
        found[i] = (up - down) / (2 * h)
    assert alpha.grad is not None
    cosine = torch.nn.functional.cosine_similarity(alpha.grad.double().flatten(), found, dim=0)
    assert cosine > 0.999
    # Every task takes part: without one of them the gradient is another.
    for task in range(3):
        without = deltas.clone()
        without[task] = 0
        other = logits.clone().requires_grad_()
        loss(other, without).backward()
        assert other.grad is not None
        assert not torch.allclose(other.grad, alpha.grad)


@given(st.integers(0, 2**62), st.floats(-8, 8), st.sampled_from([0.5, 0.31, 1.7]))
@settings(max_examples=40, deadline=None)
def test_relaxed_mask_is_the_formula(seed: int, shift: float, temperature: float) -> None:
    logits = torch.randn((4, 5), generator=torch.Generator().manual_seed(seed % 1000)) + shift
    mask = masks.relaxed_mask(logits, seed, temperature=temperature)
    u = reference.uniform((4, 5), seed)
    expected = reference.sigmoid((logits.double().numpy() + np.log(u) - np.log1p(-u)) / temperature)
    assert np.abs(mask.double().numpy() - expected).max() < 2e-6
    assert ((mask >= 0) & (mask <= 1)).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-50.0, 50.0, 0.0]]).requires_grad_()
    for estimator in ESTIMATORS:
        value = draws.masked_add(None, torch.ones(1, 3), logits, draws.Draw(0, estimator=estimator))  # type: ignore[arg-type]
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("temperature", [0.001, 0.5, 0.9, 100.0])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relaxed_masks_of_extreme_logits_and_noise(temperature: float, noise: float, dtype: torch.dtype) -> None:
    extremes = torch.tensor([-6e4, -300.0, -90.0, -53.0, -17.0, -1e-6, 0.0, 0.4, 16.0, 51.9, 52.5, 88.0, 300.0, 6e4])
    u = masks.uniform_noise((5,), 1)
    u[:4] = torch.tensor([2.0**-25, 2.0**-24, 0.5, 1.0 - 2.0**-24])
    logits, u = (t.contiguous() for t in torch.broadcast_tensors(extremes.to(dtype).unsqueeze(1), u))
    draw = draws.Draw(0, temperature, noise)
    mask, _ = draw.mask(logits, u if noise else None)
    x = logits.double() + noise * (torch.log(u.double()) - torch.log1p(-u.double()))
    assert (mask.double() - torch.sigmoid(x / temperature)).abs().max() < 2e-6 * (1 + noise / temperature)
    alpha = logits.clone().requires_grad_()
    value = draws.masked_add(None, torch.ones(logits.shape), alpha, draw)
    value.sum().backward()
    assert alpha.grad is not None
    assert torch.isfinite(value).all()
    assert torch.isfinite(alpha.grad).all()


def test_noise_of_exactly_nothing_does_not_swamp_a_large_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape))
    for temperature in (0.5, 0.6):
        assert torch.equal(
            masks.relaxed_mask(torch.tensor([[53.0, 200.0]]), 0, temperature=temperature), torch.ones(1, 2)
        )
    assert not masks.sampled_mask(torch.tensor([[-30.0]]), 0).any()


@pytest.mark.parametrize("kept", [0, 1, 3, 500])
def test_a_hard_mask_that_keeps_next_to_nothing_has_no_huge_gradient(kept: int) -> None:
    """Masks that differ in little have gradients that do; with the same noise the relaxed mask's is the measure."""
    generator = torch.Generator().manual_seed(2)
    delta, weight = torch.randn((2, 40, 50), generator=generator)
    logits = torch.rand((40, 50), generator=generator) - 1.001
    logits.view(-1)[:kept] += 1.001
    norms = {}
    for estimator in ESTIMATORS:
        alpha = logits.clone().requires_grad_()
        (draws.masked_add(None, delta, alpha, draws.Draw(0, 0.5, 0.0, estimator)) * weight).sum().backward()  # type: ignore[arg-type]
        assert alpha.grad is not None
        norms[estimator] = float(alpha.grad.norm())
    assert 0.3 < norms["straight_through"] / norms["relaxed"] < 2 * draws.MOST_SURGE


def hard_mask(logits: torch.Tensor, seed: int, noise: float = 1.0) -> torch.Tensor:
    """The elements that a straight-through step keeps."""
    draw = draws.Draw(seed, 0.5, noise, "straight_through")
    return (draws.masked_add(None, torch.ones_like(logits), logits, draw) != 0).float()


def test_hard_draws_have_the_logits_probability() -> None:
    logits = torch.full((200, 200), 0.8)
    share = float(torch.sigmoid(torch.tensor(0.8)))
    assert float(hard_mask(logits, 3).mean()) == pytest.approx(share, abs=0.01)
    assert float(masks.sampled_mask(logits, 3).mean()) == pytest.approx(share, abs=0.01)


def test_straight_through_without_noise_is_the_exported_binary_mask() -> None:
    logits = torch.randn((20, 30), generator=torch.Generator().manual_seed(0))
    logits[0, :4] = torch.tensor([0.0, -0.0, 1e-9, -1e-9])
    assert torch.equal(hard_mask(logits, 5, noise=0.0), masks.binary_mask(logits))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 1.0])
def test_binary_mask_compares_the_probability(threshold: float) -> None:
    logits = torch.linspace(-3, 3, 101).view(1, -1)
    expected = reference.sigmoid(logits.double().numpy()) >= threshold
    assert (masks.binary_mask(logits, threshold).numpy() == expected).all()


def test_an_empty_mask_leaves_the_aligned_model() -> None:
    _, aligned, delta = matrices(2)
    assert torch.equal(masks.apply_mask(aligned, delta, torch.zeros(SHAPE)), aligned)
    almost = torch.zeros(SHAPE)
    almost[0, 0] = 1e-4
    moved = masks.apply_mask(None, delta, almost)
    assert float(moved[0, 0]) == pytest.approx(float(delta[0, 0]) * 1e-4 / masks.MEAN_FLOOR, rel=1e-5)


def test_apply_mask_changes_none_of_its_inputs() -> None:
    logits, aligned, delta = matrices(3)
    before = [t.clone() for t in (logits, aligned, delta)]
    masks.apply_mask(aligned, delta, masks.soft_mask(logits))
    draws.masked_add(aligned, delta, logits.requires_grad_())
    assert all(torch.equal(a, b) for a, b in zip(before, (logits.detach(), aligned, delta), strict=True))


def test_drawn_seeds_follow_the_global_generator() -> None:
    torch.manual_seed(7)
    first = [masks.draw_seed() for _ in range(3)]
    torch.manual_seed(7)
    assert [masks.draw_seed() for _ in range(3)] == first
    assert len(set(first)) == 3


def test_processes_draw_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for rank in (None, *range(64)):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda rank=rank: rank is not None)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(7)
        seeds += [masks.draw_seed() for _ in range(3)]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 3 * 64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_tensor_seeds_differ_by_tensor_and_by_seed() -> None:
    names = [f"model.layers.{i}.{m}.{f}" for i in range(20) for m in ("q_proj", "v_proj") for f in "AB"]
    seeds = {masks.tensor_seed(s, n) for s in range(3) for n in names}
    assert len(seeds) == 3 * len(names)
    assert masks.tensor_seed(3, "a.b") == reference.tensor_seed(3, "a.b")


@given(st.integers(1, 1000), st.floats(0, 3), st.floats(0, 3))
def test_noise_goes_from_start_to_end(steps: int, start: float, end: float) -> None:
    scales = [masks.scheduled_noise(step, steps, start, end) for step in range(steps)]
    assert scales[-1] == end
    assert steps == 1 or scales[0] == start
    assert all(min(start, end) - 1e-9 <= s <= max(start, end) + 1e-9 for s in scales)
    assert masks.scheduled_noise(steps // 2, steps, start, None) == start


def test_keep_penalty_is_the_mean_over_all_logits() -> None:
    parts = [torch.randn((3, 4)), torch.randn((5, 1))]
    everything = torch.cat([p.flatten() for p in parts]).double()
    assert float(masks.keep_penalty(parts)) == pytest.approx(float((1 - torch.sigmoid(everything)).mean()), abs=1e-7)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="mask 'hard' is unknown, expected one of soft"):
        masks.inference_mask(torch.zeros(2, 2), "hard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="granularity 'cell' is unknown"):
        masks.logits_shape((2, 2), "cell")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a matrix"):
        masks.logits_shape((2, 2, 2), "row")


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_checkpointing_draws_the_same_mask_again(reentrant: bool, estimator: str) -> None:
    from torch.utils.checkpoint import checkpoint

    logits, aligned, delta = matrices(4)
    x = torch.randn((3, SHAPE[1]), generator=torch.Generator().manual_seed(8), requires_grad=True)
    grads, values = [], []
    for use in (False, True):
        alpha = logits.clone().requires_grad_()

        def layer(inputs: torch.Tensor, alpha: torch.Tensor = alpha) -> torch.Tensor:
            theta = draws.masked_add(aligned, delta, alpha, draws.Draw(masks.draw_seed(), estimator=estimator))  # type: ignore[arg-type]
            return torch.tanh(inputs @ theta.T)

        torch.manual_seed(9)
        out = checkpoint(layer, x, use_reentrant=reentrant) if use else layer(x)
        torch.rand(3)  # what comes after must not move the recomputed draw
        loss = out.square().sum()
        loss.backward()
        assert alpha.grad is not None
        grads.append(alpha.grad)
        values.append(loss.detach())
    assert torch.equal(values[0], values[1])
    assert (grads[0] - grads[1]).abs().max() <= 1e-6 * grads[0].abs().max()
