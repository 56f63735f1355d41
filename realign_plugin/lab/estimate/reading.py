"""The configuration that is estimated: a training's or a study's, distinguished by their keys."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.training.settings.preflight import OPTIONS
from realign_plugin.training.settings.processes import HOST_OPTIONS
from realign_plugin.yaml_files import read_yaml, with_overrides

STUDY: Final = ("extends", "tasks", "methods", "root")
TRAINING: Final = ("stage", "finetuning_type", "model_name_or_path", "task_adapters", "task_models")
READ: Final = (
    *OPTIONS,
    *HOST_OPTIONS,
    "model_name_or_path",
    "adapter_name_or_path",
    "lora_rank",
    "cutoff_len",
    "val_size",
    "eval_dataset",
    "pref_ftx",
    "pref_loss",
    "pure_bf16",
    "quantization_bit",
    "double_quantization",
    "disable_gradient_checkpointing",
    "use_reentrant_gc",
    "ref_model",
    "ref_model_adapters",
    "reward_model_adapters",
    "ref_model_quantization_bit",
)
"""Keys that an estimate reads, and similar keys of LLaMA-Factory."""
ALIKE: Final = 0.86


def read_values(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A YAML file's own keys with overrides on top.

    Raises:
        UserError: If it cannot be read, or an override is not KEY=VALUE.
    """
    from omegaconf import OmegaConf

    read = read_yaml(path, "a training's (stage: mask_dpo) or a study's configuration")
    found: Any = OmegaConf.to_container(with_overrides(read, overrides, path, "cutoff_len=512"), resolve=False)
    return {str(key): value for key, value in found.items()}


def is_study(path: Path, values: dict[str, Any]) -> bool:
    """Whether a configuration is a study's.

    Raises:
        UserError: If it is neither a study's nor a training's.
    """
    if any(key in values for key in TRAINING):
        return False
    if any(key in values for key in STUDY):
        return True
    raise UserError(
        f"{path}: has the keys {', '.join(values)[:80]}, expected a training's (model_name_or_path, stage: mask_dpo) "
        "or a study's (root, model, tasks)"
    )


def check_keys(values: dict[str, Any], path: Path) -> None:
    """Refuse a key of a training that is a misspelt one of those that decide what it costs.

    All other keys are LLaMA-Factory's, which knows them when the training starts.

    Raises:
        UserError: With the key that is meant.
    """
    from transformers import TrainingArguments

    known = [*READ, *(field.name for field in fields(TrainingArguments))]
    for key in values:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=ALIKE)
        if near:
            raise UserError(f"{path}: the key {key!r} is unknown, expected {near[0]!r}; correct it")
