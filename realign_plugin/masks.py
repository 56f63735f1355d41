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

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Granularity = Literal["element", "row", "column", "module"]
MaskKind = Literal["soft", "binary", "sampled", "relaxed"]
Estimator = Literal["relaxed", "straight_through"]

GRANULARITIES: Final[tuple[str, ...]] = get_args(Granularity)
MASK_KINDS: Final[tuple[str, ...]] = get_args(MaskKind)
ESTIMATORS: Final[tuple[str, ...]] = get_args(Estimator)

MEAN_FLOOR: Final = 1e-3
"""Smallest mean that a mask is divided by: an almost empty mask is not blown up more than a thousandfold."""

_TINY: Final = torch.finfo(torch.float32).tiny


def logits_shape(shape: tuple[int, ...] | torch.Size, granularity: Granularity) -> tuple[int, int]:
    """Shape of the logits that mask one matrix.

    Args:
        shape: ``(rows, columns)`` of the matrix.
        granularity: What one logit decides on.

    Returns:
        ``(rows, columns)``, with 1 where a logit serves the whole axis.

    Raises:
        ValueError: If the tensor is no matrix, or the granularity is unknown.
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
    """Draw a seed from the global CPU generator.

    Gradient checkpointing restores that generator before it runs a layer again, so the mask is the same again; noise
    from a private generator would silently give wrong gradients.
    """
    return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))


def uniform_noise(shape: tuple[int, ...] | torch.Size, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """U(0, 1) noise, both ends excluded, fp32, the same for the same seed, shape and device type.

    Args:
        shape: Shape of the noise.
        seed: Seed of a generator used for this tensor alone.
        device: Where the noise is made.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float32).clamp_(min=_TINY)


def logistic_noise(u: Tensor) -> Tensor:
    """Logistic noise ``log u - log(1 - u)`` from uniform noise ``u`` in (0, 1)."""
    return torch.log(u) - torch.log1p(-u)


def relaxed_mask(logits: Tensor, seed: int, *, temperature: float = 0.5, noise: float = 1.0) -> Tensor:
    """One draw of the relaxed Bernoulli mask (arXiv 2312.06173, equation 5).

    Args:
        logits: Logits, any shape.
        seed: Seed of the draw.
        temperature: T > 0; the smaller, the nearer to 0 and 1.
        noise: Scale of the logistic noise; 0 takes it away.

    Returns:
        fp32 mask in [0, 1], shaped as the logits.
    """
    return _relaxed(logits, _uniform(logits, seed, noise), temperature, noise)


def _uniform(logits: Tensor, seed: int, noise: float | Tensor) -> Tensor | None:
    """The noise of one draw, None where its scale is 0."""
    return None if not isinstance(noise, Tensor) and noise == 0.0 else uniform_noise(logits.shape, seed, logits.device)


def _relaxed(logits: Tensor, u: Tensor | None, temperature: float, noise: float | Tensor) -> Tensor:
    alpha = logits.float()
    if u is None:
        return torch.sigmoid(alpha / temperature)
    if temperature == 0.5 and not isinstance(noise, Tensor) and noise == 1.0:
        # 1 / (1 + exp(-2 alpha) ((1 - u) / u)^2): the same number without the two logarithms.
        odds = (1.0 - u).div_(u).square_()
        return (-2.0 * alpha).exp_().mul_(odds).add_(1.0).reciprocal_()
    return torch.sigmoid((alpha + noise * logistic_noise(u)) / temperature)


def hard_mask(logits: Tensor, seed: int, *, noise: float = 1.0) -> Tensor:
    """A 0/1 draw: 1 where the noisy logit is not negative, i.e. with probability sigmoid(logit) at noise 1.

    With ``noise=0`` this is the binary mask at threshold one half.
    """
    return (_noisy_logits(logits, _uniform(logits, seed, noise), noise) >= 0).float()


def soft_mask(logits: Tensor) -> Tensor:
    """The expected Bernoulli mask, sigmoid(logits), fp32."""
    return torch.sigmoid(logits.float())


def binary_mask(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """1 where sigmoid(logit) >= threshold, else 0, fp32; compared in float64, so that rounding moves no threshold."""
    return (torch.sigmoid(logits.double()) >= threshold).float()


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
    return value & 0x7FFFFFFFFFFFFFFF


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
        strength: The dial between the aligned model (0) and the realigned one (1).

    Returns:
        theta, fp32, ``[rows, columns]``.
    """
    masked = delta.float() * mask_factor(mask, rescale, strength)
    return masked if aligned is None else masked.add_(aligned.float())


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


@dataclass(frozen=True)
class Scale:
    """What a masked task vector is multiplied by: 1 / mean(m), the mean clamped to at least ``MEAN_FLOOR``.

    Attributes:
        value: The number, fp32, a tensor without axes.
        moves: 1 where it depends on the mask, 0 where the mean was clamped or is not divided by.
    """

    value: Tensor
    moves: Tensor


@dataclass(frozen=True)
class Draw:
    """How one mask of a training forward is drawn: the same values and logits give the same mask again.

    Attributes:
        seed: Seed of the draw.
        temperature: T of the relaxed mask.
        noise: Scale of the logistic noise; where ``u`` is given it may be a tensor without axes.
        estimator: ``relaxed``: the relaxed mask; ``straight_through``: the 0/1 mask forward, the relaxed gradient
            backward.
        rescale: Whether the mask is divided by its mean.
        compiled: Whether ``masked_linear`` takes these operations from torch's compiler.
    """

    seed: int
    temperature: float = 0.5
    noise: float | Tensor = 1.0
    estimator: Estimator = "relaxed"
    rescale: bool = True
    compiled: bool = False

    def uniform(self, logits: Tensor) -> Tensor | None:
        """The noise of the draw, U(0, 1), fp32, shaped as the logits; None where its scale is 0."""
        return _uniform(logits, self.seed, self.noise)

    def mask(self, logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mask, and what its gradient is computed from: itself, or the noisy logits of a 0/1 mask.

        Args:
            logits: Logits, any shape.
            u: What ``uniform`` gives.
        """
        if self.estimator == "relaxed":
            mask = _relaxed(logits, u, self.temperature, self.noise)
            return mask, mask
        noisy = _noisy_logits(logits, u, self.noise)
        return (noisy >= 0).float(), noisy

    def scale(self, mask: Tensor) -> Scale:
        """What the masked vector is multiplied by; stays on the mask's device, whose queue it does not wait for."""
        if not self.rescale:
            return Scale(mask.new_ones(()), mask.new_zeros(()))
        mean = mask.mean()
        return Scale(mean.clamp(min=MEAN_FLOOR).reciprocal_(), (mean >= MEAN_FLOOR).float())

    def theta(
        self, aligned: Tensor | None, delta: Tensor, mask: Tensor, scale: Scale, overwrite: bool = False
    ) -> Tensor:
        """The effective parameters, fp32.

        Args:
            aligned: theta_safe, ``[rows, columns]``; None stands for zeros.
            delta: The fused task vector, same shape.
            mask: The mask, of the logits' shape.
            scale: What ``scale`` gives.
            overwrite: Whether the mask is needed no more: fresh memory costs more than the product.
        """
        if overwrite and mask.shape == delta.shape:
            theta = mask.mul_(delta)
        else:
            theta = torch.mul(delta, mask) if delta.dtype == torch.float32 else delta.float().mul_(mask)
        theta = theta.mul_(scale.value) if self.rescale else theta
        return theta if aligned is None else theta.add_(aligned)

    def logits_gradient(self, product: Tensor, mask: Tensor, kept: Tensor, scale: Scale) -> Tensor:
        """Gradient with respect to the logits, fp32, from that with respect to theta.

        Args:
            product: d loss / d theta times what was masked, fp32, ``[rows, columns]``; overwritten.
            mask: The mask, of the logits' shape.
            kept: The second of what ``mask`` gives.
            scale: What ``scale`` gives.
        """
        reduced = _sum_to(product, mask.shape)  # d loss / d (m * scale)
        if self.rescale:
            # d scale / d m_j = -scale^2 / n, for each of the mask's n numbers.
            pull = torch.dot(reduced.flatten(), mask.flatten()) * scale.value * (scale.moves / mask.numel())
            reduced.sub_(pull)
        soft = mask if self.estimator == "relaxed" else torch.sigmoid(kept / self.temperature)
        reduced.mul_(soft)
        return reduced.addcmul_(reduced, soft, value=-1.0).mul_(scale.value / self.temperature)


def masked_add(
    aligned: Tensor | None, delta: Tensor, logits: Tensor, draw: Draw | None = None, *, select: Any = None
) -> Tensor:
    """Theta = theta_safe + delta * m / mean(m) with a mask drawn here, in one autograd step.

    Only the logits get a gradient, through the mask and through its mean. One tensor of the logits' size is kept for
    the backward pass.

    Args:
        aligned: theta_safe, ``[rows, columns]``, frozen; None stands for zeros.
        delta: Fused task vector ``[rows, columns]``, frozen; with ``select``, all task vectors ``[tasks, rows,
            columns]``.
        logits: Logits, fp32, of a shape that broadcasts against ``[rows, columns]``.
        draw: How the mask is drawn; None draws a relaxed mask with a seed from the global CPU generator.
        select: For fusions that are not linear: a function ``(deltas, mask) -> [rows, columns]`` that gives the task
            vector which the mask leaves (see ``fusion.ties_select``); it counts as constant in the gradient, which is
            exact wherever it is constant, i.e. almost everywhere.

    Returns:
        theta, fp32, ``[rows, columns]``.
    """
    draw = Draw(draw_seed()) if draw is None else draw
    result: Tensor = _MaskedAdd.apply(logits, aligned, delta, draw, select)  # type: ignore[no-untyped-call]
    return result


def _noisy_logits(logits: Tensor, u: Tensor | None, noise: float | Tensor) -> Tensor:
    alpha = logits.float()
    return alpha if u is None else alpha + noise * logistic_noise(u)


class _MaskedAdd(torch.autograd.Function):
    """The fused step behind ``masked_add``; its oracle is plain autograd over ``relaxed_mask`` and ``apply_mask``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: Tensor, aligned: Tensor | None, delta: Tensor, draw: Draw, select: Any
    ) -> Tensor:
        mask, kept = draw.mask(logits, draw.uniform(logits))
        if select is not None:
            delta = select(delta, mask)
        scale = draw.scale(mask)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(kept, delta)
            ctx.drawn = (draw, scale, logits.dtype)
        return draw.theta(aligned, delta, mask, scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, delta = ctx.saved_tensors
        draw, scale, dtype = ctx.drawn
        mask = kept if draw.estimator == "relaxed" else (kept >= 0).float()
        found = draw.logits_gradient(grads[0].float() * delta, mask, kept, scale)
        return found.to(dtype), None, None, None, None


def _sum_to(full: Tensor, shape: torch.Size) -> Tensor:
    """Sum a matrix over the axes where ``shape`` is 1."""
    axes = [axis for axis in range(full.dim()) if shape[axis] == 1 and full.shape[axis] != 1]
    return full.sum(dim=axes, keepdim=True) if axes else full
