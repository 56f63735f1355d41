"""Log probabilities under a reference that does not change: computed when a pair is first seen, then remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

TEXT_ONLY: Final = frozenset({"input_ids", "attention_mask", "labels", "position_ids"})
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

    def keys(self, batch: Mapping[str, Tensor]) -> list[bytes] | None:
        """What identifies each row of a batch; None where the batch holds more than text.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``labels``, each ``[rows, length]``.
        """
        if not TEXT_ONLY.issuperset(batch) or "attention_mask" not in batch:
            return None
        ids, mask, labels = (batch[name].cpu() for name in ("input_ids", "attention_mask", "labels"))
        keys = []
        for row in range(ids.shape[0]):
            kept = mask[row].bool()
            text = ids[row][kept].numpy().tobytes() + b"|" + labels[row][kept].numpy().tobytes()
            keys.append(hashlib.blake2b(text, digest_size=16).digest())
        return keys

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
