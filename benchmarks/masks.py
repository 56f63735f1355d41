"""The mask step against plain autograd over torch's RelaxedBernoulli, alternating, in one run; and compiled.

python benchmarks/masks.py [ROWS COLUMNS RUNS]

``fused_*`` is ``masked_add``, forward and backward. ``linear`` and ``linear_compiled`` are ``masked_linear`` on one
row of input: mask, effective parameters and both gradients, the mask drawn in both passes, as training does it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.distributions import RelaxedBernoulli

from realign_plugin.method.draws import Draw, masked_add
from realign_plugin.method.masked_linear import masked_linear
from realign_plugin.method.masks import draw_seed


def main() -> None:
    """Time forward and backward of all, and print medians and ratios."""
    rows, columns, runs = (int(x) for x in (sys.argv[1:4] or ("256", "4096", "15")))
    torch.manual_seed(0)
    logits = torch.randn(rows, columns, requires_grad=True)
    aligned, delta, gradient = (torch.randn(rows, columns) for _ in range(3))
    x, product_gradient = torch.randn(1, columns, requires_grad=True), torch.randn(1, rows)

    def plain() -> torch.Tensor:
        mask = RelaxedBernoulli(torch.tensor(0.5), logits=logits).rsample()
        return aligned + delta * mask / mask.mean()

    def fused() -> torch.Tensor:
        return masked_add(aligned, delta, logits)

    def hard() -> torch.Tensor:
        return masked_add(aligned, delta, logits, Draw(draw_seed(), noise=0.5, estimator="straight_through"))

    def linear() -> torch.Tensor:
        return masked_linear(x, logits, aligned, delta.unsqueeze(0), Draw(draw_seed()))

    def linear_compiled() -> torch.Tensor:
        return masked_linear(x, logits, aligned, delta.unsqueeze(0), Draw(draw_seed(), compiled=True))

    def seconds(step: Callable[[], torch.Tensor]) -> float:
        logits.grad = x.grad = None
        start = time.perf_counter()
        found = step()
        found.backward(gradient if found.shape == gradient.shape else product_gradient)
        return time.perf_counter() - start

    steps = {
        "relaxed_bernoulli": plain,
        "fused_relaxed": fused,
        "fused_straight_through": hard,
        "linear": linear,
        "linear_compiled": linear_compiled,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs + 2):
        for name, step in steps.items():
            times[name].append(seconds(step))

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[one][2:], times[other][2:], strict=True)), 3)

    size = rows * columns
    result = {f"{name}_ns_per_element": round(1e9 * statistics.median(t[2:]) / size, 1) for name, t in times.items()}
    result["ratio_fused_over_relaxed_bernoulli"] = ratio("fused_relaxed", "relaxed_bernoulli")
    result["ratio_compiled_over_linear"] = ratio("linear_compiled", "linear")
    print(json.dumps({"masks": {"shape": [rows, columns], "threads": torch.get_num_threads(), "runs": runs} | result}))


if __name__ == "__main__":
    main()
