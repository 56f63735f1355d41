"""Options of the hosts that a study decides itself: given on top, they would part a step from those that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from realign_plugin.errors import UserError

TRAINING: Final[Mapping[str, str]] = {
    "output_dir": "root",
    "dataset": "the data sets of align.steps, tasks and realign",
    "dataset_dir": "dataset_dir of the study",
    "stage": "the kind of a method, or the stage of an alignment's step",
    "finetuning_type": "adaptation",
    "model_name_or_path": "model",
    **dict.fromkeys(("adapter_name_or_path", "aligned_adapter", "task_adapters", "task_models"), "align and tasks"),
}
"""Options of a training, and which section of the configuration decides them."""
MODEL_ARGS: Final[Mapping[str, str]] = {"pretrained": "model", "peft": "align and tasks"}
"""Of lm-eval's ``--model_args``."""
OPTIONS: Final[Mapping[str, str]] = {
    "tasks": "evaluate.tasks",
    "model": "evaluate.model_args, as all models are measured with hf",
    "model_args": "evaluate.model_args",
    "metadata": "evaluate.metadata",
    "output_path": "root",
    "log_samples": "the study, which always keeps samples",
}
"""Of ``lm_eval``."""


def check_decided(given: Mapping[str, Any], decided: Mapping[str, str], what: str) -> None:
    """Refuse an option that the study decides.

    Args:
        given: Options by name.
        decided: ``TRAINING``, ``MODEL_ARGS`` or ``OPTIONS``.
        what: The section that holds them.

    Raises:
        UserError: With the section that decides it.
    """
    for name, value in given.items():
        if name in decided:
            raise UserError(f"{what}.{name}: {value!r}, expected none: decided by {decided[name]}; leave it out")
