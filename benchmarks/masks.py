"""The fused mask step against plain autograd over torch's RelaxedBernoulli, alternating, in one run.

python benchmarks/masks.py [ROWS COLUMNS RUNS]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.distributions import RelaxedBernoulli

from realign_plugin.masks import Draw, draw_seed, masked_add


def main() -> None:
    """Time forward and backward of both, and print medians and the ratio."""
    rows, columns, runs = (int(x) for x in (sys.argv[1:4] or ("256", "4096", "15")))
    torch.manual_seed(0)
    logits = torch.randn(rows, columns, requires_grad=True)
    aligned, delta, gradient = (torch.randn(rows, columns) for _ in range(3))

    def plain() -> torch.Tensor:
        mask = RelaxedBernoulli(torch.tensor(0.5), logits=logits).rsample()
        return aligned + delta * mask / mask.mean()

    def fused() -> torch.Tensor:
        return masked_add(aligned, delta, logits)

    def hard() -> torch.Tensor:
        return masked_add(aligned, delta, logits, Draw(draw_seed(), noise=0.5, estimator="straight_through"))

    def seconds(step: Callable[[], torch.Tensor]) -> float:
        logits.grad = None
        start = time.perf_counter()
        step().backward(gradient)
        return time.perf_counter() - start

    steps = {"relaxed_bernoulli": plain, "fused_relaxed": fused, "fused_straight_through": hard}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs + 2):
        for name, step in steps.items():
            times[name].append(seconds(step))
    size = rows * columns
    result = {f"{name}_ns_per_element": round(1e9 * statistics.median(t[2:]) / size, 1) for name, t in times.items()}
    ratios = [a / b for a, b in zip(times["fused_relaxed"][2:], times["relaxed_bernoulli"][2:], strict=True)]
    result["ratio_fused_over_relaxed_bernoulli"] = round(statistics.median(ratios), 3)
    print(json.dumps({"masks": {"shape": [rows, columns], "threads": torch.get_num_threads(), "runs": runs} | result}))


if __name__ == "__main__":
    main()
