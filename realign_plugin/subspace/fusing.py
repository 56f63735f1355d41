"""Several fine-tuned models in one, without realignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.subspace.subspace import SafetySubspace

ALL_ONES: Final = 30.0
"""A logit for which every mask is 1."""


def plain_fusion(
    aligned: str | Path | None,
    tasks: Sequence[str | Path],
    *,
    task_weight: float | Sequence[float] | None = None,
    **options: Any,
) -> SafetySubspace:
    """Several fine-tuned models fused without realignment: the mask of all ones, where training starts on average.

    Args:
        aligned: Folder of the aligned model's adapter; None where the base model itself is aligned.
        tasks: Folders of the fine-tuned models' adapters, one or more.
        task_weight: One lambda for all tasks, or one for each; None takes the fusion's default.
        **options: The fusion's fields of ``SubspaceSpec``.

    Raises:
        UserError: As ``SafetySubspace.from_adapters``.
    """
    fixed = {"mask_init": ALL_ONES, "mask": "binary"}
    return SafetySubspace.from_adapters(aligned, tasks, task_weight=task_weight, **options | fixed)
