"""What the mask's kernels achieve of a large device-to-device copy's bytes a second.

Bytes are those that have to be moved: logits, aligned factor and task vector read in fp32, theta written in the dtype
of the product; in the backward pass the gradient of theta read and that of the logits written besides. The noise need
not be in memory, and what separate kernels read and write in between counts as nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from record import Record
from timing import in_turn

from realign_plugin.method import compiled
from realign_plugin.method.draws import Draw
from realign_plugin.method.masked_linear import masked_linear
from realign_plugin.method.masks import uniform_noise

SHAPES = ((16, 4096), (11008, 16), (256, 4096), (11008, 256), (4096, 11008))
TINY = ((4, 64), (64, 64))


def measure(record: Record, tiny: bool, seconds: float) -> None:
    """All shapes, each in about so many seconds."""
    copy: dict[str, float] = {}

    def run_copy() -> dict[str, Any]:
        copy["bytes_per_s"] = copy_speed(record.device, 1 << 20 if tiny else 1 << 30, seconds)
        return {"gb_per_s": round(copy["bytes_per_s"] / 1e9, 1)}

    record.measure("kernels", "copy", run_copy)
    for rows, columns in TINY if tiny else SHAPES:
        speed = copy.get("bytes_per_s", 0.0)
        run = partial(one_shape, record.device, rows, columns, seconds, speed)
        record.measure("kernels", f"{rows} x {columns}", run)


def copy_speed(device: torch.device, size: int, seconds: float) -> float:
    """Bytes a second of a copy on the device, read and written."""
    one = torch.ones(size, dtype=torch.uint8, device=device)
    two = torch.empty_like(one)
    return 2 * size / in_turn(device, {"copy": lambda: two.copy_(one)}, seconds)["copy"]


def one_shape(device: torch.device, rows: int, columns: int, seconds: float, copy: float) -> dict[str, Any]:
    """Microseconds a call, and the share of the copy's bytes a second, of each kernel on one shape."""
    logits, aligned, delta = (torch.randn(rows, columns, device=device) for _ in range(3))
    for_theta = torch.randn(rows, columns, device=device).bfloat16()
    x = torch.randn(1, columns, device=device).bfloat16()
    trained = logits.clone().requires_grad_()
    dtype = torch.bfloat16

    def theta() -> torch.Tensor:
        draw = Draw(1)
        mask, _ = draw.mask(logits, draw.uniform(logits))
        return draw.theta(aligned, delta, mask, draw.scale(mask), dtype=dtype, overwrite=True)

    def gradients() -> torch.Tensor:
        draw = Draw(1)
        mask, kept = draw.mask(logits, draw.uniform(logits))
        scale = draw.scale(mask)
        draw.theta(aligned, delta, mask, scale, dtype=dtype)
        return draw.logits_gradient(torch.mul(for_theta, delta), mask, kept, scale)

    def linear(kind: bool) -> None:
        trained.grad = None
        found = masked_linear(x, trained, aligned, delta[None], Draw(1, compiled=kind), dtype)
        torch.autograd.backward(found, torch.ones_like(found))

    sides = {
        "generator": lambda: torch.Generator(device=device).manual_seed(1),
        "noise": lambda: uniform_noise((rows, columns), 1, device),
        "theta": theta,
        "theta_compiled": lambda: compiled.theta(logits, aligned, delta, Draw(1), dtype),
        "gradients": gradients,
        "gradients_compiled": lambda: compiled.gradients(logits, aligned, delta, Draw(1), for_theta, dtype),
        "linear": lambda: linear(False),
        "linear_compiled": lambda: linear(True),
    }
    times = in_turn(device, sides, seconds)
    found: dict[str, Any] = {f"{name}_us": round(1e6 * value, 1) for name, value in times.items()}
    size = rows * columns
    moved = {"theta": 14 * size, "gradients": 20 * size}
    for name, count in moved.items():
        for kind in ("", "_compiled"):
            found[f"{name}{kind}_of_copy"] = round(count / times[f"{name}{kind}"] / copy, 3) if copy else 0.0
    return found
