"""Gradient checkpointing that runs layers again without restoring random numbers, made to restore them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def restoring_random_numbers(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Let a layer draw the masks of its first forward pass again when it is run for its gradients.

    Seeds of masks come from the global CPU generator, so its state is all that has to be restored.

    Args:
        checkpoint: Runs a function on the arguments that follow it, now and once more in the backward pass.

    Returns:
        The same for functions that draw masks.
    """

    def run(function: Callable[..., Any], *args: Any) -> Any:
        before: list[Tensor] = []

        def again(*inputs: Any) -> Any:
            if not before:
                before.append(torch.get_rng_state())
                return function(*inputs)
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(before[0])
                return function(*inputs)

        return checkpoint(again, *args)

    return run
