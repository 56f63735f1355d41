"""Safetensors files: opening, reading and checking them; and tensors that are read on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from realign_plugin.errors import UserError


def open_tensors(file: Path, what: str) -> Any:
    """Open a safetensors file; its header is read, no tensor is.

    Args:
        file: The file.
        what: What the user calls it; the error message starts with it.

    Returns:
        safetensors' reader: ``keys()``, ``get_tensor(name)``, ``get_slice(name)``.

    Raises:
        UserError: If the file is corrupt or cannot be read.
    """
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{what}: {file} is corrupt ({error}), expected a safetensors file; copy or save it again"
        ) from error


def read_tensors(file: Path, what: str) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, refusing numbers that are not finite.

    Raises:
        UserError: If the file is corrupt, or a tensor holds NaN or infinite numbers (the tensor is named).
    """
    reader = open_tensors(file, what)
    tensors: dict[str, Tensor] = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        check_finite(tensor, name, file, what)
    return tensors


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds finite numbers alone.

    A sum shows NaN and infinite numbers at a fraction of what ``isfinite`` costs; it may overflow by itself.
    """
    return math.isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def check_finite(tensor: Tensor, name: str, file: Path, what: str) -> None:
    """Refuse a tensor with NaN or infinite numbers.

    Raises:
        UserError: With the tensor's name and its file.
    """
    if not all_finite(tensor):
        raise UserError(
            f"{what}: {name} in {file} holds NaN or infinite numbers, expected finite ones; use an earlier checkpoint"
        )


def check_writable(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse to write tensors that their dtype cannot hold.

    Args:
        state: Tensors by name.
        path: Where they are to be written.

    Raises:
        UserError: With the tensor's name, its dtype and the path.
    """
    for name, tensor in state.items():
        if not all_finite(tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{path}: {name} would hold numbers too large for {dtype}, expected finite ones; choose a wider "
                "dtype, or check the source adapters for huge values"
            )


def torch_dtype(name: str) -> torch.dtype:
    """A torch dtype by its short name: fp32, fp16 or bf16.

    Raises:
        UserError: If the name is unknown.
    """
    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in known:
        raise UserError(f"dtype: {name!r} is unknown, expected one of {', '.join(known)}")
    return known[name]


class LazyFactors(Mapping[str, Mapping[str, Tensor]]):
    """Tensors of each module, read or computed on demand and not kept."""

    def __init__(self, modules: Iterable[str], read: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Name the modules and the function that gives the tensors of one."""
        self._modules = dict.fromkeys(modules)
        self._read = read

    def __getitem__(self, module: str) -> Mapping[str, Tensor]:
        """Read the tensors of one module."""
        if module not in self._modules:
            raise KeyError(module)
        return self._read(module)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the modules."""
        return iter(self._modules)

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self._modules)


Tensors = Mapping[str, Mapping[str, Tensor]]
"""``{module: {"A": [r, in], "B": [out, r]}}`` in LoRA space, ``{module: {"W": [out, in]}}`` in weight space."""
