"""What forward uses of one tensor: theta_safe + strength * fuse(lambda * (m * delta)) / mean(m) (SOMF, equation 4)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from realign_plugin.method.fusion import is_linear, ties_select
from realign_plugin.method.masks import apply_mask, inference_mask, tensor_seed
from realign_plugin.subspace.spec import SubspaceSpec


def select_for(spec: SubspaceSpec) -> Any:
    """The selection that a fusion makes of masked task vectors, for ``draws.masked_add``; None where it is linear."""
    if is_linear(spec.fusion_method):  # type: ignore[arg-type]
        return None
    return partial(ties_select, weights=spec.task_weights, density=spec.ties_density)


def mask_of(
    spec: SubspaceSpec, name: str, logits: Tensor, kind: str | None, threshold: float | None, seed: int | None
) -> Tensor:
    """The deterministic mask of one tensor; what is None is the spec's."""
    return inference_mask(
        logits,
        kind or spec.mask,  # type: ignore[arg-type]
        threshold=spec.mask_threshold if threshold is None else threshold,
        seed=tensor_seed(spec.mask_seed if seed is None else seed, name),
        temperature=spec.mask_temperature,
    )


def effective_tensor(
    spec: SubspaceSpec,
    name: str,
    logits: Tensor,
    aligned: Tensor | None,
    deltas: Tensor,
    *,
    mask: str | Tensor | None = None,
    threshold: float | None = None,
    seed: int | None = None,
    strength: float = 1.0,
) -> Tensor:
    """One effective tensor: theta_safe + strength * fuse(lambda * (m * delta)) / mean(m) (SOMF, equation 4).

    Args:
        spec: Fusion and mask settings.
        name: The tensor's name, ``module.A``, ``module.B`` or ``module.W``; with the seed it seeds the draw.
        logits: Logits of the tensor.
        aligned: theta_safe ``[rows, columns]``, or None for zeros.
        deltas: Kept task vectors, ``[kept, rows, columns]``.
        mask: Kind of the mask, or a mask itself; None takes the spec's.
        threshold: Threshold of the binary mask; None takes the spec's.
        seed: Seed of a drawn mask; None takes the spec's.
        strength: Interpolates between the aligned model (0) and the realigned one (1).

    Returns:
        fp32 tensor ``[rows, columns]``.
    """
    if not isinstance(mask, Tensor):
        mask = mask_of(spec, name, logits, mask, threshold, seed)
    select = select_for(spec)
    delta = deltas[0] if select is None else select(deltas, mask)
    return apply_mask(aligned, delta, mask, rescale=spec.mask_rescale, strength=strength)
