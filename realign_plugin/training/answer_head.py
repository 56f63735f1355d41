"""The output head of a causal language model, applied to the tokens of answers alone.

A vocabulary of 150,000 makes logits the largest tensors of a step. A hook on the head lets it see only the positions
that predict an answer's token, inside the model's own forward, so that every wrapper (DDP, FSDP, DeepSpeed) does its
part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

Forward = Callable[[], Any]
"""Runs the model, as its wrappers want it to be run, and returns its output."""


class AnswerHead:
    """What one model says of chosen tokens, next to what a teacher in the same network does.

    Of a teacher the head's input is kept, which is smaller than its logits; where the head itself is adapted, and so
    another one for each teacher, its logits.
    """

    def __init__(self, model: Any) -> None:
        """Find the head.

        Args:
            model: A causal language model, unwrapped.
        """
        self._head: nn.Module = model.get_output_embeddings()
        self._adapted = isinstance(self._head, BaseTunerLayer)

    def teacher(self, forward: Forward, where: Tensor) -> Tensor:
        """What ``logits`` needs of a teacher; the head is spared all tokens but one if it can be.

        Args:
            forward: Runs the model as the teacher.
            where: ``[rows, length]``, boolean: the chosen tokens, row by row.

        Returns:
            ``[tokens, hidden]``, or ``[tokens, vocabulary]`` where the head is adapted; in the model's dtype, and
            without a gradient.
        """
        seen: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            seen.append(hidden[where])
            return seen[0] if self._adapted else hidden[:1, :1]

        with torch.no_grad(), self._sees(keep):
            logits: Tensor = forward().logits
        return logits if self._adapted else seen[0]

    def logits(self, forward: Forward, where: Tensor, others: Tensor) -> Tensor:
        """Logits of the chosen tokens, and the teacher's.

        Args:
            forward: Runs the model.
            where: ``[rows, length]``, boolean.
            others: What ``teacher`` gave for the same tokens.

        Returns:
            ``[2, tokens, vocabulary]``: this forward's, then the teacher's.
        """
        if self._adapted:
            with self._sees(lambda hidden: hidden[where]):
                return torch.stack([own := forward().logits, others.to(own)])
        with self._sees(lambda hidden: torch.stack([hidden[where], others.to(hidden)])):
            logits: Tensor = forward().logits
        return logits

    @contextmanager
    def _sees(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        handle = self._head.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
        try:
            yield
        finally:
            handle.remove()


def answer_positions(labels: Tensor, ignored: int = -100) -> Tensor:
    """The positions that predict a token of a row's last answer: those before each label.

    The host labels the token that ends an earlier answer as well, for templates whose requests begin with it.

    Args:
        labels: ``[rows, length]``: token ids of answers, ``ignored`` elsewhere.
        ignored: What stands for no label.

    Returns:
        ``[rows, length]``, boolean.
    """
    labelled = labels != ignored
    place = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    end = place.where(labelled, -1).amax(1, keepdim=True)
    gap = place.where(~labelled & (place < end), -1).amax(1, keepdim=True)
    where = torch.zeros_like(labelled)
    where[:, :-1] = (labelled & (place > gap))[:, 1:]
    return where
