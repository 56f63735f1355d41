"""Merging all tensors of a 7B model on the GPU: our method against mergekit's task arithmetic, tensor by tensor.

Both run as mergekit calls them, on tensors that are on the device; reading and writing files is not measured. One set
of tensors serves all layers, as it would fit on the GPU anyway: the time is that of all tensors of the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mergekit.merge_methods  # noqa: F401 - first: its hook brings our methods in
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from record import Record
from shapes import SHAPES, Shape, write_adapters, write_base
from timing import in_turn

from realign_plugin import SafetySubspace
from realign_plugin.merging import safety_subspace as ours
from realign_plugin.subspace.spec import SubspaceSpec

Merge = Callable[[TensorGroup], torch.Tensor]
TASKS = 2


def measure(record: Record, folder: Path, tiny: bool, seconds: float) -> None:
    """Each comparison in about so many seconds."""
    shape = SHAPES["tiny" if tiny else "7B"]
    for tasks in (1, TASKS):
        record.measure(
            "merging",
            f"rows of whole weights, {tasks} task(s)",
            partial(rows, record.device, shape, tasks, seconds),
        )
    for rank in (4,) if tiny else (16, 64):
        record.measure("merging", f"lora r{rank}", partial(lora, record.device, shape, rank, folder, seconds), 5.0)
    record.measure("merging", "one layer, elements of whole weights", partial(elements, record.device, shape, seconds))


def groups(device: torch.device, shape: Shape, tasks: int, layers: int | None = None) -> list[TensorGroup]:
    """Mergekit's groups for all linear modules: base and fine-tuned tensors, bf16, those of a shape shared."""
    made: dict[tuple[int, int], list[torch.Tensor]] = {}
    found = []
    for name, *size in shape.linears():
        if layers is not None and int(name.split(".")[2]) >= layers:
            break
        key = (size[0], size[1])
        if key not in made:
            base = torch.randn(key, device=device).mul_(0.02)
            made[key] = [base.bfloat16()]
            made[key] += [(base + 0.001 * torch.randn(key, device=device)).bfloat16() for _ in range(tasks)]
        found.append(TensorGroup.from_tensors(made[key], base_index=0, name=f"{name}.weight"))
    return found


def stock(tasks: int) -> Merge:
    """Mergekit's task arithmetic."""
    method = registry.get("task_arithmetic")
    parameters = {"weight": {n + 1: 0.4 for n in range(tasks)}, "normalize": False, "lambda": 1.0, "int8_mask": False}
    return lambda group: method.merge_group(group, **parameters)


@contextmanager
def trained(subspace: SafetySubspace) -> Iterator[Merge]:
    """Our method with a subspace that is in memory."""
    method = ours.SafetySubspaceMerge()
    options = {"adapter": "", "mask": "binary", "threshold": None, "seed": None, "strength": 1.0, "check_base": False}
    with patch.object(ours, "subspace", lambda path: subspace):
        yield lambda group: method.merge_group(group, **options)


def weight_subspace(shape: Shape, tasks: int, granularity: Any, modules: list[tuple[str, int, int]]) -> SafetySubspace:
    """A subspace of whole weights with random logits; the task vectors are the models'."""
    spec = SubspaceSpec(
        vector_space="weight",
        has_aligned=False,
        mask_granularity=granularity,
        task_weights=[0.4] * tasks,
        target_modules=[name for name, _, _ in modules],
    )
    generator = torch.Generator().manual_seed(0)
    logits = {
        name: {"W": torch.randn(rows, columns if granularity == "element" else 1, generator=generator)}
        for name, rows, columns in modules
    }
    return SafetySubspace(spec, logits, {}, [{}])


def compare(device: torch.device, work: list[TensorGroup], sides: dict[str, Merge], seconds: float) -> dict[str, Any]:
    """Seconds for all groups of each side, and ratios to mergekit's."""

    def all_of(merge: Merge) -> Callable[[], None]:
        def run() -> None:
            for group in work:
                merge(group)

        return run

    times = in_turn(device, {name: all_of(merge) for name, merge in sides.items()}, seconds, rounds=3)
    found: dict[str, Any] = {f"{name}_s": round(value, 4) for name, value in times.items()}
    for name in sides:
        if name != "mergekit":
            found[f"{name}_ratio"] = round(times[name] / times["mergekit"], 3)
    return found


def rows(device: torch.device, shape: Shape, tasks: int, seconds: float) -> dict[str, Any]:
    """Masks of rows on whole weights, for several sizes of block."""
    work = groups(device, shape, tasks)
    with trained(weight_subspace(shape, tasks, "row", list(shape.linears()))) as merge:
        return compare(device, work, {"mergekit": stock(tasks), "ours": merge} | blocks(merge), seconds)


def blocks(merge: Merge) -> dict[str, Merge]:
    """The same merge with other numbers of elements at once."""

    def with_block(size: int) -> Merge:
        def run(group: TensorGroup) -> torch.Tensor:
            with patch.object(ours, "BLOCKS", {"cpu": size, "cuda": size}):
                return merge(group)

        return run

    return {f"block_2^{power}": with_block(1 << power) for power in (18, 22, 26)}


def lora(device: torch.device, shape: Shape, rank: int, folder: Path, seconds: float) -> dict[str, Any]:
    """Masks of elements on LoRA factors, against the task arithmetic of one model."""
    base = write_base(shape, folder / shape.name)
    adapters = write_adapters(shape, rank, "all", base, folder, device)
    subspace = SafetySubspace.from_adapters(adapters["aligned"], [adapters["task"]])
    with trained(subspace) as merge:
        return compare(device, groups(device, shape, 1), {"mergekit": stock(1), "ours": merge}, seconds)


def elements(device: torch.device, shape: Shape, seconds: float) -> dict[str, Any]:
    """Masks of elements on whole weights, one layer: the masks themselves are made on the CPU."""
    modules = [item for item in shape.linears() if item[0].startswith("model.layers.0.")]
    with trained(weight_subspace(shape, 1, "element", modules)) as merge:
        return compare(device, groups(device, shape, 1, layers=1), {"mergekit": stock(1), "ours": merge}, seconds)
