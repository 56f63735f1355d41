"""Tracks the memory of tensors while a step runs, by kind, and records its peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

COPIED_INSIDE = (
    aten._log_softmax.default,
    aten._softmax.default,
    aten._log_softmax_backward_data.default,
    aten._softmax_backward_data.default,
)
"""Kernels that copy an argument which is not contiguous before they start, on CPUs and GPUs alike."""

INSIDE: Final = "inside kernels"


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages created while it is active, until they are freed.

    Works on fake tensors as on real ones: it looks at sizes only. Where a value would decide, a default is used: a
    flag is false, a number one half, since there are no values.

    Attributes:
        phase: What runs at present; set by the caller.
        now: Bytes by kind.
        peaks: Bytes by kind when their sum was largest, for each phase.
    """

    def __init__(self, kind_of: Callable[[Tensor, str], str]) -> None:
        """Start with nothing.

        Args:
            kind_of: Gives a new tensor's kind; its second argument is the phase.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = ""
        self.now: Counter[str] = Counter()
        self.peaks: dict[str, Counter[str]] = {}
        self._kind_of = kind_of
        self._known: dict[int, tuple[str, int]] = {}
        self._apart: set[int] = set()
        self._sum = 0
        self._most: dict[str, int] = {}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Do not count tensors that are there already, such as a model's parameters."""
        self._apart |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def reclassify(self, tensor: Tensor, kind: str) -> None:
        """Give a tensor that is counted another kind."""
        key = tensor.untyped_storage()._cdata
        if key in self._known:
            before, size = self._known[key]
            self.now[before] -= size
            self.now[kind] += size
            self._known[key] = (kind, size)

    def restart(self) -> None:
        """Forget the peaks: the next ones are recorded from here on."""
        self.peaks, self._most = {}, {}

    def highest(self, without: str = "") -> tuple[str, Counter[str]]:
        """The phase with the largest sum, and its bytes by kind.

        Args:
            without: A phase to leave out.
        """
        phases = [phase for phase in self.peaks if phase != without]
        chosen = max(phases, key=lambda phase: self._most[phase])
        return chosen, self.peaks[chosen]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        if func is aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.5 if dtype.is_floating_point else 1
        inside = 0
        if func in COPIED_INSIDE:
            copied = (part for part in args if isinstance(part, Tensor) and not part.is_contiguous())
            inside = sum(part.numel() * part.element_size() for part in copied)
        found = func(*args, **(kwargs or {}))
        for part in tree_leaves(found):
            if isinstance(part, Tensor):
                self._take(part)
        self._look(inside)
        return found

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._apart:
            return
        kind, size = self._kind_of(tensor, self.phase), storage.nbytes()
        self._known[key] = (kind, size)
        self.now[kind] += size
        self._sum += size
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.now[kind] -= size
        self._sum -= size

    def _look(self, inside: int) -> None:
        if self._sum + inside > self._most.get(self.phase, -1):
            self._most[self.phase] = self._sum + inside
            self.peaks[self.phase] = Counter(self.now) + Counter({INSIDE: inside})
