"""Log probabilities under a reference that does not change: computed when a pair is first seen, then remembered."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

MOST_ROWS: Final = 2_000_000
"""So many rows are remembered, about 300 bytes each."""


class ReferenceCache:
    """One number for each row (a prompt with its chosen or rejected answer), by what the row holds without padding.

    A DPO reference is a fixed model, so that after the first epoch nothing of it has to be computed again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, float] = {}

    def __len__(self) -> int:
        """How many rows are remembered."""
        return len(self._known)

    def get(self, keys: list[bytes], device: torch.device) -> Tensor | None:
        """The numbers of all rows ``[rows]``, fp32; None where one is not known yet."""
        values = [self._known.get(key) for key in keys]
        if None in values:
            return None
        return torch.tensor(values, dtype=torch.float32, device=device)

    def put(self, keys: list[bytes], values: Tensor) -> None:
        """Remember the numbers of rows."""
        if len(self._known) + len(keys) <= MOST_ROWS:
            self._known.update(zip(keys, values.float().tolist(), strict=True))
