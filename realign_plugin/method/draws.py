"""The masks of training: one draw, what it makes of a task vector, and its gradient, in one autograd step.

torch is the only import. Masks that a trained subspace is used with are in ``masks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from realign_plugin.method.choices import Estimator
from realign_plugin.method.masks import MEAN_FLOOR, draw_seed, draw_uniform, noisy_logits, relaxed_from, sigmoid

MOST_SURGE: Final = 4.0
"""How much larger the gradient of a 0/1 mask may be than that of the relaxed mask with the same noise.

Where a 0/1 mask keeps next to nothing its mean is next to 0, and 1 / mean up to ``1 / MEAN_FLOOR``, a thousand; the
relaxed mask's mean tells how far the logits are from keeping more. Without the bound one such tensor takes up the
whole norm that gradients are clipped to.
"""


@dataclass(frozen=True)
class Scale:
    """What a masked task vector is multiplied by: 1 / mean(m), the mean clamped to at least ``MEAN_FLOOR``.

    Attributes:
        value: The number, fp32, a tensor without axes.
        mean: The mask's mean, likewise.
    """

    value: Tensor
    mean: Tensor

    @property
    def moves(self) -> Tensor:
        """Whether it depends on the mask: not where the mean was clamped."""
        return self.mean >= MEAN_FLOOR


@dataclass(frozen=True)
class Draw:
    """How one mask of a training forward is drawn: the same values and logits give the same mask again.

    Attributes:
        seed: Seed of the draw.
        temperature: T of the relaxed mask.
        noise: Scale of the logistic noise; where ``u`` is given it may be a tensor without axes.
        estimator: ``relaxed``: the relaxed mask; ``straight_through``: the 0/1 mask forward, the relaxed gradient
            backward, at most ``MOST_SURGE`` times as large as the relaxed mask's own.
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
        return draw_uniform(logits, self.seed, self.noise)

    def mask(self, logits: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mask, and what its gradient is computed from: itself, or the noisy logits of a 0/1 mask.

        Args:
            logits: Logits, any shape.
            u: What ``uniform`` gives.
        """
        if self.estimator == "relaxed":
            mask = relaxed_from(logits, u, self.temperature, self.noise)
            return mask, mask
        noisy = noisy_logits(logits, u, self.noise)
        return (noisy >= 0).float(), noisy

    def scale(self, mask: Tensor) -> Scale | None:
        """What the masked vector is multiplied by, if at all; its device's queue is not waited for."""
        if not self.rescale:
            return None
        mean = mask.mean()
        return Scale(mean.clamp(min=MEAN_FLOOR).reciprocal_(), mean)

    def theta(
        self,
        aligned: Tensor | None,
        delta: Tensor,
        mask: Tensor,
        scale: Scale | None,
        *,
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
    ) -> Tensor:
        """The effective parameters, computed in fp32 and rounded once.

        Small factors cost a GPU's host as much as large ones, for each operation: there are as few as can be.

        Args:
            aligned: theta_safe, ``[rows, columns]``; None stands for zeros.
            delta: The fused task vector, same shape.
            mask: The mask, of the logits' shape.
            scale: What ``scale`` gives.
            dtype: Dtype of the result.
            overwrite: Whether the mask may be overwritten: fresh memory costs more than the product.
        """
        factor = mask
        if scale is not None:
            factor = mask.mul_(scale.value) if overwrite else mask * scale.value
        fits = dtype == torch.float32 and mask.shape == delta.shape and factor.dtype == dtype
        into = factor if fits and (overwrite or scale is not None) else delta.new_empty(delta.shape, dtype=dtype)
        if aligned is None:
            return torch.mul(delta, factor, out=into)
        return torch.addcmul(aligned, delta, factor, out=into)

    def logits_gradient(self, product: Tensor, mask: Tensor, kept: Tensor, scale: Scale | None) -> Tensor:
        """Gradient with respect to the logits, fp32, from that with respect to theta.

        Args:
            product: d loss / d theta times what was masked, fp32, ``[rows, columns]``; overwritten.
            mask: The mask, of the logits' shape.
            kept: The second of what ``mask`` gives.
            scale: What ``scale`` gives.
        """
        reduced = _sum_to(product, mask.shape)  # d loss / d (m * scale)
        if scale is not None:
            # d scale / d m_j = -scale^2 / n, for each of the mask's n numbers.
            pull = torch.dot(reduced.flatten(), mask.flatten()).mul_(scale.value).mul_(scale.moves)
            reduced.sub_(pull, alpha=1 / mask.numel())
        soft = mask if self.estimator == "relaxed" else sigmoid(kept, self.temperature)
        found: Tensor = torch.ops.aten.sigmoid_backward(reduced, soft)  # reduced * soft * (1 - soft)
        if scale is not None:
            value = scale.value
            if self.estimator == "straight_through":
                value = torch.minimum(value, MOST_SURGE / soft.mean().clamp(min=MEAN_FLOOR))
            found.mul_(value)
        return found if self.temperature == 1.0 else found.div_(self.temperature)


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
            vector which the mask leaves (see ``fusion.ties_select``); it is treated as constant in the gradient, which
            is exact wherever it is constant, i.e. almost everywhere. Of what a 0/1 mask drops it finds nothing; the
            gradient there is of what it finds under the relaxed mask.

    Returns:
        theta, fp32, ``[rows, columns]``.
    """
    draw = Draw(draw_seed()) if draw is None else draw
    result: Tensor = _MaskedAdd.apply(logits, aligned, delta, draw, select)  # type: ignore[no-untyped-call]
    return result


class _MaskedAdd(torch.autograd.Function):
    """The fused step behind ``masked_add``; its oracle is plain autograd over ``relaxed_mask`` and ``apply_mask``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: Tensor, aligned: Tensor | None, delta: Tensor, draw: Draw, select: Any
    ) -> Tensor:
        mask, kept = draw.mask(logits, draw.uniform(logits))
        followed = delta
        if select is not None:
            vectors, delta = delta, select(delta, mask)
            followed = delta
            if draw.estimator == "straight_through" and ctx.needs_input_grad[0]:
                followed = torch.where(mask > 0, delta, select(vectors, sigmoid(kept, draw.temperature)))
        scale = draw.scale(mask)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(kept, followed)
            ctx.drawn = (draw, scale, logits.dtype)
        return draw.theta(aligned, delta, mask, scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, delta = ctx.saved_tensors
        draw, scale, dtype = ctx.drawn
        mask = kept if draw.estimator == "relaxed" else (kept >= 0).float()
        found = draw.logits_gradient(grads[0].float() * delta.float(), mask, kept, scale)
        return found.to(dtype), None, None, None, None


def _sum_to(full: Tensor, shape: torch.Size) -> Tensor:
    """Sum a matrix over the axes where ``shape`` is 1."""
    axes = [axis for axis in range(full.dim()) if shape[axis] == 1 and full.shape[axis] != 1]
    return full.sum(dim=axes, keepdim=True) if axes else full
