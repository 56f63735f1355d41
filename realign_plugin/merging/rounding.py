"""One rounding, to the dtype that is written."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
        update: fp32, same shape; used up.
    """
    return update.add_(base).to(written_dtype(base))


def written_dtype(base: Tensor) -> torch.dtype:
    """The dtype that a merged tensor is rounded to."""
    return _output or base.dtype
