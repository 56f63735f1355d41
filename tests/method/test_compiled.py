"""The compiled step against the same step run operation by operation."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from realign_plugin import UserError
from realign_plugin.method import compiled, draws, masks
from realign_plugin.method.masked_linear import masked_linear
from tests.method.test_masked_linear import numbers

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile on a CPU needs g++ ($CXX)"
)


def step(draw: draws.Draw, rows: int, columns: int, **options: Any) -> list[torch.Tensor]:
    """Product, gradient of the input, gradient of the logits."""
    kind = options.get("granularity", "element")
    vectors, dtype = options.get("vectors", torch.float32), options.get("dtype", torch.float32)
    x = numbers(2, 3, columns, seed=1).to(dtype).requires_grad_()
    logits = numbers(*masks.logits_shape((rows, columns), kind), seed=2).requires_grad_()
    aligned = None if options.get("alone") else numbers(rows, columns, seed=3).to(vectors)
    product = masked_linear(x, logits, aligned, numbers(1, rows, columns, seed=4).to(vectors), draw, dtype)
    (product * numbers(2, 3, rows, seed=5)).sum().backward()
    assert x.grad is not None
    assert logits.grad is not None
    return [product.detach(), x.grad, logits.grad]


def check(draw: draws.Draw, rows: int = 12, columns: int = 20, tolerance: float = 1e-5, **options: Any) -> None:
    found = step(replace(draw, compiled=True), rows, columns, **options)
    for ours, theirs in zip(found, step(draw, rows, columns, **options), strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= tolerance * float(theirs.abs().max())


@needs_compiler
@pytest.mark.parametrize(
    ("draw", "options"),
    [
        (draws.Draw(1), {}),
        (draws.Draw(2, estimator="straight_through", rescale=False), {"granularity": "row", "alone": True}),
        (draws.Draw(4), {"granularity": "column"}),
        (draws.Draw(6), {"vectors": torch.float64}),
        (draws.Draw(3, temperature=0.9), {"vectors": torch.bfloat16, "dtype": torch.bfloat16, "tolerance": 2e-2}),
    ],
)
def test_products_and_gradients_are_those_of_single_operations(draw: draws.Draw, options: dict[str, Any]) -> None:
    check(draw, **options)


@needs_compiler
def test_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(draws.Draw(5), tolerance=2e-2)


@needs_compiler
def test_nothing_is_compiled_anew_for_another_shape_seed_or_scale_of_noise() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    for number, (rows, columns) in enumerate([(12, 20), (20, 12), (7, 33), (64, 8)]):
        for step_of_schedule in range(4):
            noise = masks.scheduled_noise(step_of_schedule, 4, 1.0, 0.0)
            check(draws.Draw(100 * number + step_of_schedule, noise=noise), rows, columns)
    # The first scale (1), the last one (0) and all between; forward and backward.
    assert counters["stats"]["unique_graphs"] == 6
    assert not counters["graph_break"]


def test_a_machine_that_cannot_compile_is_told_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("C++ compile error\n\nx.cpp:1:10: fatal error: Python.h: No such file\nmuch more")

    monkeypatch.setattr(compiled, "_compiled", lambda function: fails)
    with pytest.raises(UserError) as caught:
        compiled.check_compiler("cpu")
    message = "mask_compile: true, but torch.compile fails on cpu (RuntimeError: x.cpp:1:10: fatal error: "
    message += "Python.h: No such file), expected g++"
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@needs_compiler
def test_a_machine_that_can_compile_passes() -> None:
    compiled.check_compiler("cpu")
