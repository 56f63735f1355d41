"""What identifies a row of a batch: its text, without the padding that depends on the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from torch import Tensor

TEXT_ONLY: Final = frozenset({"input_ids", "attention_mask", "labels", "position_ids", "rope_deltas"})
"""The last two follow from the first two where there are no pictures."""


def row_keys(batch: Mapping[str, Tensor]) -> list[bytes] | None:
    """A key for each row; None where the batch holds more than text.

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
