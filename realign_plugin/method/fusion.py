"""Fusion of several task vectors into one: pure functions over tensors, torch only.

Masks come first, fusion after (SOMF, arXiv 2405.09055, equation 4). The mask is shared and multiplies every task
vector, so whatever is linear in them may be fused once, when the subspace is built; only TIES has to see the masked
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.method.choices import FusionMethod
from realign_plugin.method.masks import tensor_seed, uniform_noise


def default_task_weight(method: FusionMethod, tasks: int) -> float:
    """The default lambda: 1.0 for one task and for the average, 0.4 for TIES, 0.3 for the sums of several tasks."""
    if tasks == 1 or method == "average":
        return 1.0
    return 0.4 if method == "ties" else 0.3


def is_linear(method: FusionMethod) -> bool:
    """Whether the fusion is linear in the task vectors once it is seeded, so that it collapses to one task vector."""
    return method != "ties"


def check_trainable(weights: Sequence[float], fix: str) -> None:
    """Refuse to train on task vectors of which none counts: there is nothing to mask.

    Args:
        weights: One lambda for each task.
        fix: What to do instead; the error message ends with it.

    Raises:
        UserError: If all are 0.
    """
    if not any(weights):
        raise UserError(
            f"task_weight: {list(weights)!r} leaves nothing to mask, expected a number other than 0 for one task at "
            f"least; {fix}"
        )


def weighted_sum(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Task arithmetic (arXiv 2212.04089): the sum of lambda_t * delta_t, in fp32.

    Args:
        deltas: Task vectors of one tensor, all of the same shape.
        weights: One lambda for each.
    """
    total = deltas[0].float() * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta.float(), alpha=weight)
    return total


def dare_drop(delta: Tensor, drop_rate: float, seed: int) -> Tensor:
    """DARE (arXiv 2311.03099): drop each element with probability ``drop_rate`` and divide the rest by 1 - drop_rate.

    Args:
        delta: Task vector of one tensor.
        drop_rate: In [0, 1).
        seed: Seed of this tensor's drop, which happens once, when the subspace is built.

    Returns:
        fp32 tensor, same shape.
    """
    keep = uniform_noise(delta.shape, seed) >= drop_rate
    return delta.float() * keep.to(delta.device) / (1.0 - drop_rate)


def collapse(
    deltas: Sequence[Tensor],
    method: FusionMethod,
    weights: Sequence[float],
    *,
    dare_drop_rate: float = 0.2,
    seed: int = 0,
    name: str = "",
) -> Tensor:
    """One task vector that stands for all of them, for the fusions that are linear.

    Args:
        deltas: Task vectors of one tensor.
        method: ``task_arithmetic``, ``average`` or ``dare``.
        weights: One lambda for each task.
        dare_drop_rate: Share of elements that DARE drops.
        seed: The fusion's recorded seed.
        name: The tensor's name: with the seed and the task's number it seeds the drop.

    Returns:
        fp32 tensor of the task vectors' shape.

    Raises:
        ValueError: If the fusion is not linear.
    """
    match method:
        case "task_arithmetic":
            return weighted_sum(deltas, weights)
        case "average":
            return weighted_sum(deltas, [weight / len(deltas) for weight in weights])
        case "dare":
            dropped = [dare_drop(d, dare_drop_rate, tensor_seed(seed, f"{name}#{t}")) for t, d in enumerate(deltas)]
            return weighted_sum(dropped, weights)
    raise ValueError(f"fusion {method!r} does not collapse to one task vector")


def trim(vectors: Tensor, density: float) -> Tensor:
    """Keep the ``density`` share of largest magnitude in each task vector, zero the rest (TIES step 1).

    Args:
        vectors: ``[tasks, rows, columns]``.
        density: Share kept, in (0, 1]; at least one element stays. Equal magnitudes at the border all stay.

    Returns:
        Boolean tensor, True where an element stays.
    """
    magnitude = vectors.detach().abs().flatten(1)
    size = magnitude.shape[1]
    keep = max(1, round(density * size))
    border = magnitude.kthvalue(size - keep + 1, dim=1, keepdim=True).values
    return (magnitude >= border).view(vectors.shape)


def ties_select(deltas: Tensor, mask: Tensor, *, weights: Sequence[float], density: float) -> Tensor:
    """TIES (arXiv 2306.01708) of masked task vectors, with the mask itself factored out.

    Trim, sign election and disjoint sum look at v_t = lambda_t * m * delta_t. The elements that they let through are a
    sum of lambda_t * delta_t, so TIES(v) = m * D with D returned here, and d TIES / d m = D wherever the choice stays
    the same.

    Args:
        deltas: ``[tasks, rows, columns]``.
        mask: The shared mask, of a shape that broadcasts against ``[rows, columns]``.
        weights: One lambda for each task.
        density: Share that the trim keeps.

    Returns:
        D, fp32, ``[rows, columns]``.
    """
    scaled = deltas.float() * torch.tensor(weights, dtype=torch.float32, device=deltas.device).view(-1, 1, 1)
    masked = scaled * mask
    kept = masked * trim(masked, density)
    elected = torch.sign(kept.sum(0))
    chosen = (torch.sign(kept) == elected) & (kept != 0)
    return (scaled * chosen).sum(0)
