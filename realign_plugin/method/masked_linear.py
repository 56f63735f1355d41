"""A linear map by masked parameters that keeps neither the mask nor the parameters for the backward pass.

Plain autograd over ``draws.masked_add`` and a linear map keeps two tensors of the parameters' size for each map until
its backward pass has run: the mask, and the effective parameters. Both follow from the seed of the draw, so the
backward pass computes them again. torch is the only import.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from realign_plugin.method import compiled
from realign_plugin.method.draws import Draw


def masked_linear(
    x: Tensor, logits: Tensor, aligned: Tensor | None, deltas: Tensor, draw: Draw, dtype: torch.dtype = torch.float32
) -> Tensor:
    """``x @ theta.T`` with theta = theta_safe + delta * m / mean(m), the mask drawn here.

    Masks and theta are fp32. Kept for the backward pass: the arguments themselves.

    Args:
        x: Input, ``[..., columns]``.
        logits: Logits, of a shape that broadcasts against ``[rows, columns]``; get a gradient, as ``x`` does.
        aligned: theta_safe, ``[rows, columns]``, frozen; None stands for zeros.
        deltas: One fused task vector, ``[1, rows, columns]``, frozen. The whole parameter, not a part of it: FSDP and
            ZeRO-3 swap values into the parameter that was saved.
        draw: How the mask is drawn.
        dtype: What the product is computed in; autocast's goes before it.

    Returns:
        ``[..., rows]``, in that dtype.
    """
    result: Tensor = _MaskedLinear.apply(x, logits, aligned, deltas, draw, dtype)  # type: ignore[no-untyped-call]
    return result


class _MaskedLinear(torch.autograd.Function):
    """The oracle is ``functional.linear`` over ``draws.masked_add`` with the same draw."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        logits: Tensor,
        aligned: Tensor | None,
        deltas: Tensor,
        draw: Draw,
        dtype: torch.dtype,
    ) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        ctx.save_for_backward(x, logits, aligned, deltas)
        ctx.draw, ctx.dtype = draw, dtype
        if draw.compiled:
            return functional.linear(x.to(dtype), compiled.theta(logits, aligned, deltas[0], draw, dtype))
        mask, _ = draw.mask(logits, draw.uniform(logits))
        theta = draw.theta(aligned, deltas[0], mask, draw.scale(mask), dtype=dtype, overwrite=True)
        return functional.linear(x.to(dtype), theta)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, logits, aligned, deltas = ctx.saved_tensors
        draw, dtype = ctx.draw, ctx.dtype
        grad = grads[0].to(dtype)
        for_x = for_logits = None
        if draw.compiled:
            theta, for_logits = compiled.gradients(
                logits, aligned, deltas[0], draw, _for_theta(grad, x.to(dtype)), dtype
            )
            for_x = (grad @ theta).to(x.dtype) if ctx.needs_input_grad[0] else None
            return for_x, for_logits, None, None, None, None
        mask, kept = draw.mask(logits, draw.uniform(logits))
        scale = draw.scale(mask)
        if ctx.needs_input_grad[0]:
            for_x = (grad @ draw.theta(aligned, deltas[0], mask, scale, dtype=dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            product = torch.mul(_for_theta(grad, x.to(dtype)), deltas[0].float())
            found = draw.logits_gradient(product, mask, kept, scale)
            for_logits = found.to(logits.dtype)
        return for_x, for_logits, None, None, None, None


def _for_theta(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient with respect to theta, ``[rows, columns]``, from that with respect to the product, and the input."""
    return grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
