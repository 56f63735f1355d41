"""Rows of similar length are run together where padding costs as much as text does: on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from realign_plugin.training.row_keys import TEXT_ONLY

PASS_TOKENS: Final = 128
"""As many tokens take as long as a pass through the model takes by itself, to read its weights."""
MASK_TOKENS: Final = 8000
"""The same for computing masks of as many elements as the model has parameters."""
MULTIPLE: Final = 8
"""Lengths are multiples of this, as in the host's batches."""


def is_plain_text(batch: Mapping[str, Any]) -> bool:
    """Whether a batch's rows can be cut: it holds text alone, with a mask of its tokens."""
    return TEXT_ONLY.issuperset(batch) and "attention_mask" in batch and batch["attention_mask"].dim() == 2


def similar_lengths(lengths: Sequence[int], cost: float = PASS_TOKENS) -> list[list[int]]:
    """Split rows into groups so that the tokens that are computed, padding included, are the fewest.

    Args:
        lengths: Tokens of each row.
        cost: What another group costs, in tokens.

    Returns:
        Of each group its rows' numbers, in their order; the rows' order where there is one group.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    least, begins = [0.0], [0]  # for the first n rows of the order: tokens, and where the last group begins
    for end in range(1, len(order) + 1):
        totals = [least[begin] + (end - begin) * lengths[order[begin]] + cost for begin in range(end)]
        begins.append(min(range(end), key=totals.__getitem__))
        least.append(totals[begins[-1]])
    groups, end = list[list[int]](), len(order)
    while end:
        groups.append(sorted(order[begins[end] : end]))
        end = begins[end]
    return groups


def row_lengths(mask: Tensor) -> list[int]:
    """Where the last token of each row ends, rounded up to the host's multiple.

    Args:
        mask: ``[rows, length]``: 1 where there is a token.
    """
    ends = (mask.bool() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
    return [min(mask.shape[1], -(-end // MULTIPLE) * MULTIPLE) for end in ends.tolist()]


def cut(batch: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some rows of plain text, without the padding behind the longest of them.

    Args:
        batch: Tensors whose first axis is the rows; of multimodal models' ``position_ids`` ``[axes, rows, length]``
            it is the second.
        rows: Numbers of rows.
    """
    chosen = {
        key: value.index_select(int(key == "position_ids" and value.dim() == 3), rows) for key, value in batch.items()
    }
    longest = max(row_lengths(chosen["attention_mask"]))
    return {key: value if key == "rope_deltas" else value[..., :longest] for key, value in chosen.items()}
