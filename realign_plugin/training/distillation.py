"""The options of ``stage: safety_distill``, checked; no host is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.method.divergence import DIVERGENCES

DISTILL_OPTIONS: Final = ("skill_dataset", "distill_skill_weight", "distill_divergence", "distill_temperature")


def check_distillation(options: Mapping[str, Any]) -> None:
    """Check the options of the loss.

    Args:
        options: Our options by name.

    Raises:
        UserError: With the option, its value and what was expected.
    """
    check_choice("distill_divergence", options.get("distill_divergence") or "forward", DIVERGENCES)
    for name, low_open in (("distill_temperature", True), ("distill_skill_weight", False)):
        if options.get(name) is not None:
            check_range(name, options[name], 0.0, 1e3, low_open=low_open)


def check_skill_datasets(skill: Sequence[str], training: Sequence[str], evaluation: Sequence[str]) -> None:
    """Check that every data set has a teacher, and both teachers have one to train on.

    Args:
        skill: ``skill_dataset``: those of the fine-tuned model.
        training: ``dataset``.
        evaluation: ``eval_dataset``.

    Raises:
        UserError: If a name is unknown, or a teacher has no training rows.
    """
    for name in skill:
        check_choice("skill_dataset", name, [*training, *evaluation])
    mine = set(skill) & set(training)
    if training and not mine:
        raise UserError(
            f"skill_dataset: {', '.join(skill) or 'not set'}, expected one or more of dataset "
            f"({', '.join(training)}): without prompts of the new skill, it is unlearned"
        )
    if training and not set(training) - mine:
        raise UserError(
            f"dataset: {', '.join(training)} are all in skill_dataset, expected safety prompts as well; add a data "
            "set of prompts with the aligned model's answers"
        )
