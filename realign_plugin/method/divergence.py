"""The divergence between two models' next-token distributions: the loss of self-distillation, torch only.

Forward KL(teacher || student) is knowledge distillation's (arXiv 1503.02531); reverse KL(student || teacher) is
MiniLLM's (arXiv 2306.08543). Both are computed token by token in fp32, a few rows at a time: of the ``[tokens,
vocabulary]`` matrices nothing but the logits and their gradient, in the model's own dtype, is ever whole.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Divergence = Literal["forward", "reverse"]
DIVERGENCES: Final[tuple[str, ...]] = get_args(Divergence)

BLOCK: Final = 1 << 22
"""Numbers of one ``[rows, vocabulary]`` block that held in fp32 at a time."""


def token_divergence(
    logits: Tensor, divergence: Divergence = "forward", temperature: float = 1.0, block: int = BLOCK
) -> Tensor:
    """KL divergence between student and teacher, for each token.

    Only the student's logits get a gradient. At a temperature T both are divided by T and the result is multiplied by
    T squared, which keeps the gradient's size (arXiv 1503.02531, section 2).

    Args:
        logits: ``[2, tokens, vocabulary]``: the student's, then the teacher's, any float dtype.
        divergence: ``forward``: KL(teacher || student); ``reverse``: KL(student || teacher).
        temperature: T > 0.
        block: How many numbers are worked on in fp32 at a time.

    Returns:
        ``[tokens]``, fp32, in nats; 0 where the distributions are the same.
    """
    result: Tensor = _TokenDivergence.apply(logits, divergence, temperature, block)  # type: ignore[no-untyped-call]
    return result


class _TokenDivergence(torch.autograd.Function):
    """The divergence with its gradient in closed form; its oracle is autograd over log_softmax in float64."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: Tensor, divergence: Divergence, temperature: float, block: int
    ) -> Tensor:
        rows = max(1, block // logits.shape[-1])
        found = [
            _divergence(*_log_probabilities(logits[:, start : start + rows], temperature), divergence)
            for start in range(0, logits.shape[1], rows)
        ]
        ctx.save_for_backward(logits)
        ctx.how = (divergence, temperature, rows)
        return torch.cat(found).mul_(temperature**2) if found else logits.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        divergence, temperature, rows = ctx.how
        gradient = torch.zeros_like(logits)
        for start in range(0, logits.shape[1], rows):
            part = slice(start, start + rows)
            student, teacher = _log_probabilities(logits[:, part], temperature)
            if divergence == "forward":
                slope = student.exp_().sub_(teacher.exp_())
            else:
                gap = student - teacher
                share = student.exp_()
                slope = gap.sub_((share * gap).sum(-1, keepdim=True)).mul_(share)
            gradient[0, part] = slope.mul_(grads[0][part, None] * temperature)
        return gradient, None, None, None


def _log_probabilities(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student, teacher = torch.log_softmax(logits.float() / temperature, dim=-1)
    return student, teacher


def _divergence(student: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    one, two = (teacher, student) if divergence == "forward" else (student, teacher)
    return (one.exp() * (one - two)).sum(-1)
