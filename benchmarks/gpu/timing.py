"""Times of short work on a device, sides in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from record import wait


def in_turn(
    device: torch.device, sides: Mapping[str, Callable[[], Any]], seconds: float, rounds: int = 5
) -> dict[str, float]:
    """Seconds of one call of each side: medians of rounds in which the sides take turns.

    A side is called as often in a round as fills its share of the time, without waiting in between: where starting
    work takes the CPU longer than doing it takes the GPU, the time is the CPU's.

    Args:
        device: Where the sides work.
        sides: By name.
        seconds: About how long all this takes.
        rounds: How many rounds.
    """
    share = seconds / (len(sides) * (rounds + 1))
    calls: dict[str, int] = {}
    for name, side in sides.items():
        spent = 0.0
        for _ in range(4):  # the first calls compile and tune
            wait(device)
            start = time.perf_counter()
            side()
            wait(device)
            once = time.perf_counter() - start
            spent += once
            if spent > 2 * share and spent > once:
                break
        calls[name] = max(1, min(10_000, int(share / max(once, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(calls[name]):
                side()
            wait(device)
            times[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(values) for name, values in times.items()}
