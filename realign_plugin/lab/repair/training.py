"""The trainings of a repair, as files for ``llamafactory-cli train``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from realign_plugin.errors import UserError
from realign_plugin.lab.repair.plan import CUTOFF, ROWS, Folders, Inputs, Method
from realign_plugin.text_files import read_json

DATA: Final = "repair"
"""Name of the on-policy data set; ``repair_skill`` is the skill's."""
TYPES: Final[dict[Method, str]] = {"masks": "safety_subspace", "lora": "lora"}
CHECKPOINTS: Final = 4


def options(inputs: Inputs, folders: Folders, method: Method, template: str | None, skill: bool) -> dict[str, Any]:
    """Arguments of a training.

    Args:
        inputs: What the user gave.
        folders: Where things are.
        method: What is trained.
        template: LLaMA-Factory's name; None: read from the tokenizer.
        skill: Whether there is a data set of the skill.
    """
    import torch

    steps, cuda = inputs.spent.steps, torch.cuda.is_available()
    given: dict[str, Any] = {
        "model_name_or_path": inputs.base,
        "stage": "safety_distill",
        "finetuning_type": TYPES[method],
        "aligned_adapter": str(inputs.aligned) if inputs.aligned else None,
        "task_adapters": [str(inputs.adapter)],
        "do_train": True,
        "dataset": f"{DATA},{DATA}_skill" if skill else DATA,
        **({"skill_dataset": f"{DATA}_skill"} if skill else {"distill_skill_weight": 0.0}),
        "dataset_dir": str(folders.data),
        "template": template,
        "cutoff_len": CUTOFF,
        "preprocessing_num_workers": 1,
        "output_dir": str(folders.models / method),
        "max_steps": steps,
        **inputs.spent.options[method],
        "lr_scheduler_type": "cosine",
        "logging_steps": max(1, steps // 20),
        "save_steps": max(1, steps // CHECKPOINTS),
        "save_total_limit": 1,
        **on_this_machine(inputs.base),
        "report_to": "none",
        "seed": inputs.seed,
        "data_seed": inputs.seed,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if not cuda and _fits(given | {"disable_gradient_checkpointing": True}):
        given["disable_gradient_checkpointing"] = True  # on a CPU time is scarcer than memory
    return given


def on_this_machine(base: str) -> dict[str, Any]:
    """Arguments of a training that depend on the machine and on the model's own weights.

    Args:
        base: The base model: a folder or a hub id.
    """
    import torch

    return {
        "per_device_train_batch_size": max(1, ROWS // max(1, torch.cuda.device_count())),
        "bf16": half_precision(base),
        "use_cpu": None if torch.cuda.is_available() else True,
        # Plain attention is faster on a CPU, since rows are short here. On an H200, gradients of padded rows were NaN
        # with torch 2.11's cuDNN attention.
        "flash_attn": "disabled",
    }


def _fits(options: dict[str, Any]) -> bool:
    """Whether a training takes at most half of this machine's memory, as estimated: kernels need room of their own.

    Estimated for LoRA, which takes a little more than masks, and so once for both.
    """
    from realign_plugin.lab.estimate.memory import alone
    from realign_plugin.lab.estimate.training import read_training

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peak = alone(read_training("", options | {"finetuning_type": TYPES["lora"]})).total
    except UserError:  # an architecture that cannot be estimated
        return False
    return peak <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def half_precision(base: str) -> bool:
    """Whether a model is trained in bf16: where its own weights are in half precision."""
    file = Path(base) / "config.json"
    if not file.exists():
        return True
    config = read_json(file, "BASE", "the model's config")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.") != "float32"


def as_yaml(values: dict[str, Any]) -> str:
    """The arguments as a file."""
    return str(OmegaConf.to_yaml(OmegaConf.create(values)))
