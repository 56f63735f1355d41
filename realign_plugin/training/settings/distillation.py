"""The options of ``stage: safety_distill``, checked; no host is imported here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.method.divergence import DIVERGENCES


@dataclass
class DistillArguments:
    """The options; LLaMA-Factory's parser takes them from here."""

    skill_dataset: str | None = field(
        default=None,
        metadata={
            "help": "For safety_distill: which of `dataset` and `eval_dataset` hold prompts of the new skill, whose "
            "teacher is the fine-tuned model; that of the others is the aligned one."
        },
    )
    distill_skill_weight: float = field(
        default=1.0, metadata={"help": "Weight of the divergence from the fine-tuned model on skill prompts."}
    )
    distill_divergence: Literal["forward", "reverse"] = field(
        default="forward", metadata={"help": "KL(teacher || student), or KL(student || teacher)."}
    )
    distill_temperature: float = field(
        default=1.0, metadata={"help": "What the logits of student and teacher are divided by."}
    )
    distill_first_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the first token of a safety answer, which decides on a refusal; of others: 1."},
    )


DISTILL_OPTIONS: Final = tuple(option.name for option in fields(DistillArguments))


def check_distillation(options: Mapping[str, Any]) -> None:
    """Check the options of the loss.

    Args:
        options: Our options by name.

    Raises:
        UserError: With the option, its value and what was expected.
    """
    check_choice("distill_divergence", options.get("distill_divergence") or "forward", DIVERGENCES)
    for name, low_open in (
        ("distill_temperature", True),
        ("distill_skill_weight", False),
        ("distill_first_weight", True),
    ):
        if options.get(name) is not None:
            check_range(name, options[name], 0.0, 1e3, low_open=low_open)


def check_skill_datasets(
    skill: Sequence[str], training: Sequence[str], evaluation: Sequence[str], weight: float
) -> None:
    """Check that every data set has a teacher, and both teachers have one to train on.

    Args:
        skill: ``skill_dataset``: those of the fine-tuned model. May be empty if their weight is 0.
        training: ``dataset``.
        evaluation: ``eval_dataset``.
        weight: ``distill_skill_weight``.

    Raises:
        UserError: If a name is unknown, or a teacher has no training rows.
    """
    for name in skill:
        check_choice("skill_dataset", name, [*training, *evaluation])
    mine = set(skill) & set(training)
    if training and not mine and (skill or weight > 0):
        raise UserError(
            f"skill_dataset: {', '.join(skill) or 'not set'}, expected one or more of dataset "
            f"({', '.join(training)}): without prompts of the new skill, it is unlearned; add some, "
            "or set distill_skill_weight: 0"
        )
    if training and not set(training) - mine:
        raise UserError(
            f"dataset: {', '.join(training)} are all in skill_dataset, expected safety prompts as well; add a data "
            "set of prompts with the aligned model's answers"
        )
