"""One rounding, to the dtype that is written, and no NaN in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from mergekit.merge_methods.base import TensorGroup
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.subspace.tensor_files import all_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

_output: torch.dtype | None = None


@contextmanager
def output_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Within the block, results are rounded to this dtype; None takes that of the base tensor."""
    global _output
    before, _output = _output, dtype
    try:
        yield
    finally:
        _output = before


def updated(base: Tensor, update: Tensor) -> Tensor:
    """Base + update, computed in fp32 and rounded once.

    Args:
        base: The base model's tensor.
        update: fp32, same shape.
    """
    return (update + base).to(written_dtype(base))


def written_dtype(base: Tensor) -> torch.dtype:
    """The dtype that a merged tensor is rounded to."""
    return _output or base.dtype


def require_finite(group: TensorGroup, merged: Tensor) -> Tensor:
    """The merged tensor, once it is known to hold finite numbers alone.

    Args:
        group: What it was made of.
        merged: The merged tensor.

    Raises:
        UserError: With the tensor, and the model that NaN or infinite numbers come from.
    """
    if all_finite(merged):
        return merged
    for entry in group.entries:
        if not all_finite(entry.tensor):
            raise UserError(
                f"models: {group.metadata.name} of {entry.id} holds NaN or infinite numbers, expected finite ones; "
                "use an earlier checkpoint"
            )
    raise UserError(
        f"{group.metadata.name}: merging gives numbers that {str(merged.dtype).removeprefix('torch.')} cannot hold, "
        "expected finite ones; set out_dtype: float32"
    )


def unchanged(group: TensorGroup, tensor: Tensor) -> Tensor:
    """A tensor that no method touches, once it is known to be finite in the dtype that is written.

    Args:
        group: What it is from.
        tensor: The tensor.

    Raises:
        UserError: As ``require_finite``.
    """
    require_finite(group, tensor.to(written_dtype(tensor)))
    return tensor
