"""Parameters of which each process holds a part: FSDP2's and DeepSpeed ZeRO-3's, read and written as whole tensors.

Both swap whole tensors in while a module's forward runs, so that nothing here is needed there; outside it every
process has to call these functions, in the same order.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a process holds a part of a tensor only, at this moment."""
    return hasattr(tensor, "full_tensor") or _zero_partitioned(tensor)


def may_be_swapped(module: nn.Module, tensors: Iterable[Tensor]) -> bool:
    """Whether values of parameters can change without their versions: FSDP and ZeRO-3 refill the same storage.

    Args:
        module: The module that holds them.
        tensors: The parameters.
    """
    return "_is_fsdp_managed_module" in vars(module) or any(hasattr(tensor, "ds_id") for tensor in tensors)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, on every process; a tensor that is whole is returned itself.

    FSDP2's are differentiable: each process' gradient goes to its own part, unreduced, which is right for what all
    processes compute alike. ZeRO-3's are copies without a gradient.
    """
    if hasattr(tensor, "full_tensor"):
        sharded: Any = tensor
        gathered: Tensor = sharded.to(sharded.device_mesh.device_type).full_tensor()  # offloaded parts are on the CPU
        return gathered
    if not _zero_partitioned(tensor):
        return tensor
    with _gathered(tensor):
        return tensor.detach().clone()


def whole_shape(tensor: Tensor) -> torch.Size:
    """The shape of the whole tensor, without the other processes."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


@torch.no_grad()
def write_whole(parameter: nn.Parameter, value: Tensor) -> None:
    """Copy a whole tensor into a parameter, each process its part.

    Args:
        parameter: The parameter, sharded or whole.
        value: The whole tensor, the same on every process.
    """
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mine: Any = parameter
        value = value.to(device=mine.device_mesh.device_type, dtype=mine.dtype)
        part: Any = distribute_tensor(value, mine.device_mesh, mine.placements)
        mine.to_local().copy_(part.to_local())
    elif _zero_partitioned(parameter):
        with _gathered(parameter, modifier_rank=0):
            parameter.data.copy_(value)
    else:
        parameter.data.copy_(value)


@contextmanager
def even_shards() -> Iterator[None]:
    """Within the block, FSDP2 splits task vectors ``[kept, rows, columns]`` along their rows or columns.

    By itself it splits the first axis: with one task vector the first process would hold all of them. It demands that
    another axis can be divided by the number of processes.
    """
    from torch.distributed import fsdp, get_world_size
    from torch.distributed.tensor import Shard

    stock = fsdp.fully_shard
    processes = get_world_size()

    def placement(parameter: nn.Parameter) -> Shard | None:
        if parameter.dim() != 3 or parameter.shape[0] % processes == 0:
            return None
        return next((Shard(axis) for axis in (1, 2) if parameter.shape[axis] % processes == 0), None)

    def fully_shard(module: Any, **options: Any) -> Any:
        return stock(module, **({"shard_placement_fn": placement} | options))

    fsdp.fully_shard = fully_shard  # type: ignore[assignment]
    try:
        yield
    finally:
        fsdp.fully_shard = stock


def _gathered(tensor: Tensor, **options: Any) -> Any:
    zero = importlib.import_module("deepspeed.runtime.zero")  # who holds such a tensor has it
    return zero.GatheredParameters([tensor], **options)


def _zero_partitioned(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_id") and tensor.numel() != getattr(tensor, "ds_numel", tensor.numel())
