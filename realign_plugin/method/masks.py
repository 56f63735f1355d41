"""Mask maths: how logits become masks, and masks become effective parameters.

Pure functions over tensors; torch is the only import. The method is SOMF (arXiv 2405.09055, section 3.2), its relaxed
masks are those of Concrete Subspace Learning (arXiv 2312.06173, equation 5):

    m = sigmoid((alpha + log u - log(1 - u)) / T),  u ~ U(0, 1)
    theta = theta_safe + delta * m / mean(m)

with the logits ``alpha``, the temperature ``T``, and the mean taken over one tensor.

A mask has the shape of its logits. For granularity ``row``, ``column`` and ``module`` that shape has ones where one
logit serves many elements, and broadcasts against the tensor it masks.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, distributed

from realign_plugin.method.choices import GRANULARITIES, MASK_KINDS, Granularity, MaskKind

MEAN_FLOOR: Final = 1e-3
"""Smallest mean that a mask is divided by: an almost empty mask is scaled by at most a thousand."""

_LEAST: Final = 2.0**-25
"""What noise of exactly 0 is taken for, which one element in 16 million has: the middle of the first step of 2^-24.

Its logit is -17.3, as far out as the 16.6 of the greatest number below 1.
"""

_SEEDS: Final = 2**63 - 1
_SPREAD: Final = 0x9E3779B97F4A7C15
"""An odd number with bits spread out: its multiples differ in high and low bits."""


def logits_shape(shape: tuple[int, ...] | torch.Size, granularity: Granularity) -> tuple[int, int]:
    """Shape of the logits that mask one matrix.

    Args:
        shape: ``(rows, columns)`` of the matrix.
        granularity: What one logit decides on.

    Returns:
        ``(rows, columns)``, with 1 where a logit serves the whole axis.

    Raises:
        ValueError: If the tensor is not a matrix, or the granularity is unknown.
    """
    if len(shape) != 2:
        raise ValueError(f"a mask needs a matrix, got shape {tuple(shape)}")
    rows, columns = int(shape[0]), int(shape[1])
    match granularity:
        case "element":
            return rows, columns
        case "row":
            return rows, 1
        case "column":
            return 1, columns
        case "module":
            return 1, 1
    raise ValueError(f"granularity {granularity!r} is unknown, expected one of {', '.join(GRANULARITIES)}")


def draw_seed() -> int:
    """Draw a seed from the global CPU generator; processes that train together get seeds of their own from one state.

    Gradient checkpointing restores that generator before it runs a layer again, so the mask is the same again; noise
    from a private generator would silently give wrong gradients. Trainers seed it alike in all processes: the rank
    tells them apart, and the first one draws what a single process does.
    """
    seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
    alone = not (distributed.is_available() and distributed.is_initialized())
    return seed if alone else (seed ^ (distributed.get_rank() * _SPREAD)) & _SEEDS


def uniform_noise(shape: tuple[int, ...] | torch.Size, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """U(0, 1) noise, both ends excluded, fp32, the same for the same seed, shape and device type.

    Args:
        shape: Shape of the noise.
        seed: Seed of a generator used for this tensor alone.
        device: Where the noise is made.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float32).clamp_(min=_LEAST)


def relaxed_mask(logits: Tensor, seed: int, *, temperature: float = 0.5, noise: float = 1.0) -> Tensor:
    """One draw of the relaxed Bernoulli mask (arXiv 2312.06173, equation 5).

    Args:
        logits: Logits, any shape.
        seed: Seed of the draw.
        temperature: T > 0; the smaller, the closer to 0 and 1.
        noise: Scale of the logistic noise; 0 removes it.

    Returns:
        fp32 mask in [0, 1], shaped as the logits.
    """
    return relaxed_from(logits, draw_uniform(logits, seed, noise), temperature, noise)


def draw_uniform(logits: Tensor, seed: int, noise: float | Tensor) -> Tensor | None:
    """The noise of one draw, None where its scale is 0."""
    return None if not isinstance(noise, Tensor) and noise == 0.0 else uniform_noise(logits.shape, seed, logits.device)


def relaxed_from(logits: Tensor, u: Tensor | None, temperature: float, noise: float | Tensor) -> Tensor:
    """The relaxed mask of noise that ``uniform_noise`` made; without noise where it is None."""
    alpha = logits.float()
    if u is None:
        return sigmoid(alpha, temperature)
    if temperature == 0.5 and not isinstance(noise, Tensor) and noise == 1.0:
        # 1 / (1 + exp(-2 alpha) ((1 - u) / u)^2): the same number without the two logarithms.
        odds = (1.0 - u).div_(u).square_()
        return (-2.0 * alpha).exp_().mul_(odds).add_(1.0).reciprocal_()
    return sigmoid(alpha + noise * torch.logit(u), temperature)


def sigmoid(alpha: Tensor, temperature: float) -> Tensor:
    """The logistic function of alpha / T."""
    return torch.sigmoid(alpha if temperature == 1.0 else alpha / temperature)


def noisy_logits(logits: Tensor, u: Tensor | None, noise: float | Tensor) -> Tensor:
    """Logits with the scaled logistic noise of ``uniform`` added, fp32; the logits themselves where it is None."""
    alpha = logits.float()
    return alpha if u is None else alpha + noise * torch.logit(u)


def soft_mask(logits: Tensor) -> Tensor:
    """The expected Bernoulli mask, sigmoid(logits), fp32."""
    return torch.sigmoid(logits.float())


def binary_mask(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """1 where sigmoid(logit) >= threshold, else 0, fp32; compared in float64, so that rounding moves no threshold."""
    return (torch.sigmoid(in_reach_of_float64(logits).double()) >= threshold).float().to(logits.device)


def in_reach_of_float64(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy on the CPU where its device, Apple's MPS, does not support float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def sampled_mask(logits: Tensor, seed: int) -> Tensor:
    """One draw of Bernoulli(sigmoid(logits)) with a recorded seed, fp32 (the paper's binary mask)."""
    cpu = logits.detach().float().cpu()
    return (uniform_noise(cpu.shape, seed) < torch.sigmoid(cpu)).float().to(logits.device)


def inference_mask(
    logits: Tensor, kind: MaskKind, *, threshold: float = 0.5, seed: int = 0, temperature: float = 0.5
) -> Tensor:
    """The mask that a trained subspace is used with: deterministic, the same on every load and on every device.

    Args:
        logits: Logits of one tensor.
        kind: ``soft``, ``binary``, ``sampled`` or ``relaxed``.
        threshold: Threshold of ``binary``.
        seed: Seed of ``sampled`` and ``relaxed``; the noise is always made on the CPU.
        temperature: T of ``relaxed``.

    Returns:
        fp32 mask in [0, 1], shaped as the logits, on their device.

    Raises:
        ValueError: If the kind is unknown.
    """
    logits = logits.detach()
    match kind:
        case "soft":
            return soft_mask(logits)
        case "binary":
            return binary_mask(logits, threshold)
        case "sampled":
            return sampled_mask(logits, seed)
        case "relaxed":
            return relaxed_mask(logits.cpu(), seed, temperature=temperature).to(logits.device)
    raise ValueError(f"mask {kind!r} is unknown, expected one of {', '.join(MASK_KINDS)}")


def tensor_seed(seed: int, name: str) -> int:
    """A seed for one tensor of a model, from the recorded seed and the tensor's name (FNV-1a, 63 bits).

    Each tensor has its own draw, and none depends on the order in which tensors are visited.
    """
    value = 0xCBF29CE484222325 ^ (seed & 0xFFFFFFFFFFFFFFFF)
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value & _SEEDS


def rescaled(mask: Tensor, rescale: bool = True) -> Tensor:
    """The mask divided by its mean over the tensor, the mean clamped to at least ``MEAN_FLOOR``."""
    return mask / mask.mean().clamp(min=MEAN_FLOOR) if rescale else mask


def mask_factor(mask: Tensor, rescale: bool = True, strength: float = 1.0) -> Tensor:
    """What multiplies the task vector: strength * m / mean(m)."""
    factor = rescaled(mask, rescale)
    return factor if strength == 1.0 else factor * strength


def apply_mask(
    aligned: Tensor | None, delta: Tensor, mask: Tensor, *, rescale: bool = True, strength: float = 1.0
) -> Tensor:
    """Theta = theta_safe + strength * delta * m / mean(m), for a mask that is given (SOMF, section 3.2).

    Args:
        aligned: theta_safe, ``[rows, columns]``; None stands for zeros.
        delta: The fused task vector, same shape.
        mask: The mask, of a shape that broadcasts against ``delta``.
        rescale: Whether the mask is divided by its mean.
        strength: Interpolates between the aligned model (0) and the realigned one (1).

    Returns:
        theta, fp32, ``[rows, columns]``.
    """
    masked = delta.float() * mask_factor(mask, rescale, strength)
    return masked if aligned is None else masked + aligned.float()


def keep_penalty(logits: list[Tensor]) -> Tensor:
    """Mean of 1 - sigmoid(alpha) over all logits: what the keep weight multiplies. A scalar in [0, 1]."""
    total = sum(x.numel() for x in logits)
    return torch.stack([torch.sigmoid(-x.float()).sum() for x in logits]).sum() / total


def scheduled_noise(step: int, steps: int, start: float, end: float | None) -> float:
    """Scale of the noise at one optimiser step: linear from ``start`` at the first to ``end`` at the last.

    Args:
        step: Steps already done, 0 at the first.
        steps: Steps in all.
        start: Scale at the first step.
        end: Scale at the last step; None keeps ``start``.
    """
    if end is None or end == start:
        return start
    done = min(max(step / (steps - 1), 0.0), 1.0) if steps > 1 else 1.0
    return end if done == 1.0 else start + (end - start) * done
