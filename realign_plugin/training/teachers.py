"""The two teachers of self-distillation, both in the network: the aligned model and the fine-tuned one.

Of a safety subspace they are the mask of all zeros and the mask of all ones; of a LoRA adapter, frozen copies of the
adapters, or the base model where that is the aligned one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, get_args

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from realign_plugin.training.row_keys import row_keys
from realign_plugin.tuner import SafetySubspaceModel

Teacher = Literal["aligned", "fine_tuned"]
TEACHERS: Final[tuple[Teacher, ...]] = get_args(Teacher)
"""In the order of the numbers that stand for them in a batch."""

REMEMBERED_BYTES: Final = 4 << 30


@contextmanager
def acting_as(peft_model: Any, teacher: Teacher) -> Iterator[None]:
    """Within the block the model is a teacher, without dropout; nothing is copied.

    Args:
        peft_model: The model, unwrapped.
        teacher: Which one.
    """
    training = peft_model.training
    peft_model.eval()
    try:
        with _switched(peft_model, teacher):
            yield
    finally:
        peft_model.train(training)


@contextmanager
def _switched(peft_model: Any, teacher: Teacher) -> Iterator[None]:
    if isinstance(peft_model.base_model, SafetySubspaceModel):
        with peft_model.base_model.reference("aligned" if teacher == "aligned" else "init"):
            yield
    elif teacher not in peft_model.peft_config:
        with peft_model.disable_adapter():
            yield
    else:
        # Not set_adapter: that would make the teacher trainable.
        layers = [module for module in peft_model.modules() if isinstance(module, BaseTunerLayer)]
        before = [layer._active_adapter for layer in layers]
        for layer in layers:
            layer._active_adapter = [teacher]
        try:
            yield
        finally:
            for layer, adapter in zip(layers, before, strict=True):
                layer._active_adapter = adapter


class TeacherCache:
    """What ``AnswerHead.teacher`` gives of each row: exact, and mostly smaller than a useful share of the logits."""

    def __init__(self, most_bytes: int = REMEMBERED_BYTES) -> None:
        """Start empty.

        Args:
            most_bytes: How much is remembered, on the CPU.
        """
        self._known: dict[bytes, Tensor] = {}
        self._left = most_bytes

    def __len__(self) -> int:
        """How many rows are remembered."""
        return len(self._known)

    def keys(self, batch: dict[str, Tensor], teachers: Tensor) -> list[bytes] | None:
        """What identifies each row under its teacher; None where the batch holds more than text.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``labels``, each ``[rows, length]``.
            teachers: ``[rows]``, each row's teacher as a number.
        """
        keys = row_keys(batch)
        return keys and [key + bytes([number]) for key, number in zip(keys, teachers.tolist(), strict=True)]

    def get(self, keys: list[bytes], device: torch.device) -> Tensor | None:
        """What is known of all rows' answers, ``[tokens, ...]``; None where a row is not known yet."""
        rows = [self._known.get(key) for key in keys]
        known = [row for row in rows if row is not None]
        return torch.cat(known).to(device) if len(known) == len(rows) else None

    def put(self, keys: list[bytes], found: Tensor, tokens: list[int]) -> None:
        """Remember rows, as long as there is room.

        Args:
            keys: The rows.
            found: ``[tokens, ...]`` of all of them, in their order.
            tokens: How many tokens each row has.
        """
        for key, row in zip(keys, torch.split(found, tokens), strict=True):
            size = row.numel() * row.element_size()
            if key not in self._known and size <= self._left:
                self._known[key] = row.to("cpu", copy=True)
                self._left -= size
