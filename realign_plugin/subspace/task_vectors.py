"""Task vectors: what fine-tuning added to the aligned model, their weights, and what is kept of several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.method.fusion import collapse, default_task_weight, is_linear
from realign_plugin.subspace.spec import SubspaceSpec


def parse_task_weights(text: str | None, what: str) -> float | list[float] | None:
    """Task weights as a command line gives them.

    Args:
        text: One number, or several with commas.
        what: What the user calls the option.

    Raises:
        UserError: If a part is not a number.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{what}: {text!r}, expected a number, or one for each task with commas") from error
    return numbers[0] if len(numbers) == 1 else numbers


def task_weights(
    given: float | Sequence[float] | None, tasks: int, method: str, what: str = "adapters"
) -> list[float]:
    """One lambda for each task.

    Args:
        given: One number for all, one for each, or None for the fusion's default.
        tasks: How many tasks there are.
        method: The fusion.
        what: What the tasks are given as.

    Raises:
        UserError: If a list has another length, or something in it is not a number.
    """
    if given is None:
        return [default_task_weight(method, tasks)] * tasks  # type: ignore[arg-type]
    values = [given] if isinstance(given, (int, float, str)) else list(given)
    try:
        weights = [float(value) for value in values]
    except (TypeError, ValueError):
        weights = [math.nan]
    if not all(map(math.isfinite, weights)):
        raise UserError(f"task_weight: {given!r} is not a finite number, expected a number or a list of {tasks}")
    if len(weights) == 1:
        weights *= tasks
    if len(weights) != tasks:
        raise UserError(
            f"task_weight: {given!r} has {len(weights)} numbers for {tasks} task {what}, expected one number or "
            f"{tasks}"
        )
    return weights


def difference(task: Tensor, aligned: Tensor | None) -> Tensor:
    """A task vector, fp32; None for the aligned parameters stands for zeros."""
    return task.float() if aligned is None else task.float() - aligned.float()


def keep_vectors(spec: SubspaceSpec, name: str, vectors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The task vectors that are kept of one tensor: one where the fusion is linear, else all.

    Args:
        spec: Fusion, weights and dtype.
        name: The tensor's name, ``module.A``, ``module.B`` or ``module.W``; with the seed it seeds DARE's drop.
        vectors: Task vectors ``[rows, columns]``, one for each task.
        dtype: What they are rounded to; None takes the subspace's dtype, which is how they are saved.

    Returns:
        ``[kept, rows, columns]`` in that dtype.
    """
    dtype = dtype or getattr(torch, spec.vector_dtype)
    if not is_linear(spec.fusion_method):  # type: ignore[arg-type]
        return torch.stack([vector.to(dtype) for vector in vectors])
    fused = collapse(
        vectors,
        spec.fusion_method,  # type: ignore[arg-type]
        spec.task_weights,
        dare_drop_rate=spec.dare_drop_rate,
        seed=spec.fusion_seed,
        name=name,
    )
    return fused.to(dtype).unsqueeze(0)
