"""The model that lm-eval evaluates: what it does with thinking, and how it leaves the GPU to a judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_model: Any = None


def note(model: Any) -> None:
    """Note the model for the length of an evaluation.

    Args:
        model: lm-eval's model; None once it is over.
    """
    global _model
    _model = model


def keep_thinking(model: Any, tasks: Any, ours: type) -> None:
    """Let the answers keep their thinking, where only tasks of ours read them: they tell the two apart themselves.

    A token's number is left alone: its tokenizer leaves the token out of the text.

    Args:
        model: lm-eval's model.
        tasks: What ``TaskManager.load`` returns, or lm-eval's tasks by name, in groups, as before it.
        ours: The class of our tasks.
    """
    if isinstance(getattr(model, "think_end_token", None), str) and all(
        isinstance(task, ours) for task in leaves(tasks)
    ):
        model.think_end_token = None


def strips_thinking() -> bool:
    """Whether lm-eval itself takes the thinking out of the answers (``think_end_token``)."""
    return getattr(_model, "think_end_token", None) is not None


def leave_gpu() -> None:
    """Move the model to the CPU: all its answers are there by now."""
    import torch

    module = getattr(_model, "_model", None)
    if isinstance(module, torch.nn.Module) and torch.cuda.is_available():
        module.to("cpu")
        torch.cuda.empty_cache()


def leaves(tasks: Any) -> Iterator[Any]:
    """The tasks of an evaluation.

    Args:
        tasks: What ``TaskManager.load`` returns, or lm-eval's tasks by name, in groups, as before it.
    """
    if isinstance(tasks, dict):
        for task in tasks.get("tasks", tasks).values():
            yield from leaves(task)
    else:
        yield tasks
