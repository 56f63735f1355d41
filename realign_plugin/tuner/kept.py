"""Values that were computed once from a layer's tensors, and how a change of those tensors is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

Key = tuple[str, str, str | None]
"""Adapter, what was computed, and the reference it was computed for."""

WIDTH: Final = 255
_ODD: Final = 0x1E3779B97F4A7C15


@dataclass(frozen=True)
class _Entry:
    state: Any
    sources: Sequence[Tensor]
    contents: Tensor
    value: Tensor


class Kept:
    """What one layer keeps. A value is computed again once its settings or its sources have changed.

    Pointers and versions tell of most changes at no cost. They do not tell of writes through ``.data``, as DeepSpeed's
    optimiser makes them: the contents do, which cost as much to read as a product of one token. They are compared at
    each use, or for all layers at once where a call of the whole model begins (``contents_checked``).
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self.trusted = False

    def get(self, key: Key, settings: Any, sources: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """A value, computed without gradient unless it is known.

        Args:
            key: Its name.
            settings: What it depends on besides tensors.
            sources: The tensors that it is computed from.
            compute: Computes it.
        """
        state = (settings, [(tensor.data_ptr(), tensor._version) for tensor in sources])
        known = self._entries.get(key)
        if known is not None and known.state == state and (self.trusted or not self._stale([known])[0]):
            return known.value
        with torch.no_grad():
            entry = _Entry(state, sources, fingerprint(sources), compute())
        self._entries[key] = entry
        return entry.value

    def forget(self, unless: Callable[[Key], bool] = lambda key: False) -> None:
        """Drop values, but for those whose key is to be kept."""
        self._entries = {key: entry for key, entry in self._entries.items() if unless(key)}

    @staticmethod
    def _stale(entries: Sequence[_Entry]) -> list[bool]:
        device = entries[0].contents.device
        then = torch.stack([entry.contents.to(device) for entry in entries])
        now = torch.stack([fingerprint(entry.sources).to(device) for entry in entries])
        return [bool(changed) for changed in (now != then).tolist()]

    @staticmethod
    def compare(stores: Iterable[Kept]) -> None:
        """Drop every value whose sources have other contents now; one wait for a GPU's queue in all."""
        found = [(store, key, entry) for store in stores for key, entry in store._entries.items()]
        for (store, key, _), stale in zip(found, Kept._stale([e for *_, e in found]) if found else (), strict=True):
            if stale:
                del store._entries[key]


@contextmanager
def contents_checked(stores: Sequence[Kept]) -> Iterator[None]:
    """Compare contents once; within the block pointers and versions are enough."""
    Kept.compare(stores)
    for store in stores:
        store.trusted = True
    try:
        yield
    finally:
        for store in stores:
            store.trusted = False


@torch.no_grad()
def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """A number for the bits of tensors, int64 without axes, on the device of the first.

    Sums of whole words (modulo 2^64) over the rows and columns of a grid that lies askew to the tensor's own, each
    with its own odd weight: other values and the same values elsewhere give another number.
    """
    device = tensors[0].device
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        if flat.storage_offset() * flat.element_size() % 8:
            flat = flat.clone()
        count = flat.numel() * flat.element_size() // 8 * 8 // flat.element_size()
        words, rest = flat[:count].view(torch.int64), flat[count:].contiguous().view(torch.uint8).long()
        rows = words.numel() // WIDTH
        grid, last = words[: rows * WIDTH].view(rows, WIDTH), words[rows * WIDTH :]
        sums = torch.cat([grid.sum(0), grid.sum(1), last, rest])
        weights = torch.arange(1, 2 * sums.numel(), 2, device=sums.device)
        total = total * _ODD + (sums * (weights.pow(3) * _ODD)).sum().to(device)
    return total
