"""What is not drawn in the network that is trained: a DPO reference or a distillation teacher, and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.method.masks import soft_mask
from realign_plugin.subspace.effective import effective_tensor, mask_of, select_for
from realign_plugin.subspace.spec import SubspaceSpec

Reference = Literal["init", "aligned"]
"""``init``: the mask of all ones, i.e. the plain fusion; ``aligned``: the mask of all zeros."""


@contextmanager
def switched(layers: Iterable[Any], kind: Reference) -> Iterator[None]:
    """Within the block, layers compute a reference."""
    them = list(layers)
    for layer in them:
        layer.reference = kind
    try:
        yield
    finally:
        for layer in them:
            layer.reference = None


def reference_value(
    kind: Reference, spec: SubspaceSpec, name: str, logits: Tensor, aligned: Tensor | None, deltas: Tensor
) -> Tensor:
    """A reference's factor, fp32; in weight space what is added to the base weight.

    Args:
        kind: Which reference.
        spec: How task vectors are fused.
        name: The tensor's name.
        logits: Logits of the mask, for their shape.
        aligned: The aligned factor, if any.
        deltas: The kept task vectors.
    """
    if kind == "aligned":
        return torch.zeros_like(deltas[0], dtype=torch.float32) if aligned is None else aligned.float()
    if select_for(spec) is None:  # the mask of all ones: a plain sum
        return deltas[0].float() if aligned is None else deltas[0].float() + aligned.float()
    return effective_tensor(spec, name, logits, aligned, deltas, mask=torch.ones_like(logits))


def followed_mask(spec: SubspaceSpec, name: str, logits: Tensor) -> Tensor:
    """The deterministic mask of logits that are trained, for an evaluation whose gradient may be asked for.

    The soft mask has one; of another mask the backward pass, if there is one, is refused.
    """
    if spec.mask == "soft":
        return soft_mask(logits)
    mask: Tensor = _WithoutGradient.apply(logits, mask_of(spec, name, logits, None, None, None), spec.mask)  # type: ignore[no-untyped-call]
    return mask


class _WithoutGradient(torch.autograd.Function):
    """A mask that tells who asks for its gradient that it has none, instead of leaving logits as they are."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, kind: str) -> Tensor:  # type: ignore[override]
        ctx.kind = kind
        return mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise UserError(
            f"mask: {ctx.kind!r} has no gradient, and the model is in evaluation mode, expected training mode; call "
            "model.train()"
        )
