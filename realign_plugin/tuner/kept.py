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
BLOCK: Final = 1024 * WIDTH
"""Words that are read at once."""


@dataclass(frozen=True)
class _Entry:
    state: Any
    sources: Sequence[Tensor]
    contents: Tensor
    value: Tensor

    def is_stale(self) -> bool:
        return not torch.equal(self.contents, fingerprint(self.sources))


class Kept:
    """What one layer keeps. A value is computed again once its settings or its sources have changed.

    Pointers and versions tell of most changes at no cost. They do not tell of writes through ``.data``, as DeepSpeed's
    optimiser makes them, nor of those to tensors of ``torch.inference_mode``: the contents do, which cost as much to
    read as a dozen products of one token. They are compared at each use, or for all layers at once where a call of the
    whole model begins (``contents_checked``).
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
        # What was made in inference mode has no version: its contents tell.
        state = (settings, [(t.data_ptr(), None if t.is_inference() else t._version) for t in sources])
        known = self._entries.get(key)
        if known is not None and known.state == state and (self.trusted or not known.is_stale()):
            return known.value
        with torch.inference_mode(False), torch.no_grad():  # autograd may need it later
            entry = _Entry(state, sources, fingerprint(sources), compute())
        self._entries[key] = entry
        return entry.value

    def forget(self, unless: Callable[[Key], bool] = lambda key: False) -> None:
        """Drop values, but for those whose key is to be kept."""
        self._entries = {key: entry for key, entry in self._entries.items() if unless(key)}

    @staticmethod
    def compare(stores: Iterable[Kept]) -> None:
        """Drop every value whose sources have other contents now; where none has, a GPU's queue is waited for once."""
        found = [(store, key, entry) for store in stores for key, entry in store._entries.items()]
        if not found:
            return
        device = found[0][2].contents.device
        then = torch.cat([entry.contents.to(device) for *_, entry in found])
        now = torch.cat([fingerprint(entry.sources).to(device) for *_, entry in found])
        if torch.equal(then, now):
            return
        for store, key, entry in found:
            if entry.is_stale():
                store._entries.pop(key, None)  # copies of nn.DataParallel compare the same stores


@contextmanager
def contents_checked(stores: Sequence[Kept]) -> Iterator[None]:
    """Compare contents once; within the block pointers and versions are enough. Stores that are trusted stay so."""
    stores = [store for store in stores if not store.trusted]
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
    """Some numbers for the bits of tensors, about a 255th of their words: int64, on the device of the first.

    They are sums of words (modulo 2^64) over the rows and the columns of a grid that lies askew to the tensor's own:
    other values, and the same values elsewhere, give other numbers.
    """
    device = tensors[0].device
    found = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        if flat.storage_offset() * flat.element_size() % 8:
            flat = flat.clone()
        whole = flat.numel() * flat.element_size() // 8 * 8 // flat.element_size()
        words = flat[:whole].view(torch.int64)
        found.append(flat[whole:].view(torch.uint8).long())
        for start in range(0, words.numel(), BLOCK):
            block = words[start : start + BLOCK]
            mixed = block ^ (block >> 31)  # a sign is the highest bit, of which a sum shows the parity alone
            rows = len(mixed) // WIDTH
            grid = mixed[: rows * WIDTH].view(rows, WIDTH)
            found += [grid.sum(0), grid.sum(1), mixed[rows * WIDTH :]]
    return torch.cat([numbers.to(device) for numbers in found])
