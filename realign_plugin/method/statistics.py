"""Statistics of a mask."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from realign_plugin.method.masks import in_reach_of_float64


def entropy_bits(probability: Tensor) -> Tensor:
    """Entropy of Bernoulli(p), in bits, elementwise; 0 at p = 0 and p = 1."""
    p = in_reach_of_float64(probability).double()
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1.0 - p)
    return nats / math.log(2.0)


@torch.no_grad()
def mask_statistics(tuner: Any, adapter_name: str = "default") -> dict[str, float]:
    """Mean mask, share of elements above one half, and mean entropy in bits, over all elements that are masked.

    A logit that serves a whole row, column or module counts for as many elements.

    Args:
        tuner: A ``SafetySubspaceModel``.
        adapter_name: The adapter.
    """
    numbers: list[Tensor] = []
    sizes: list[int] = []
    for layer in tuner.layers():
        if adapter_name not in layer.specs:
            continue
        for factor in layer.specs[adapter_name].factors:
            logits, _, deltas = layer.parts(adapter_name, factor)
            p = in_reach_of_float64(torch.sigmoid(logits.float()))
            found = torch.stack([p.mean(dtype=torch.float64), (p >= 0.5).double().mean(), entropy_bits(p).mean()])
            numbers.append(found.to(numbers[0].device) if numbers else found)  # waits for a GPU's queue once
            sizes.append(deltas[0].numel())
    if not numbers:
        return {"mean": 0.0, "share_above_half": 0.0, "entropy": 0.0}
    weights = torch.tensor(sizes, dtype=torch.float64)
    mean, above, entropy = (weights @ torch.stack(numbers).cpu() / weights.sum()).tolist()
    return {"mean": mean, "share_above_half": above, "entropy": entropy}
