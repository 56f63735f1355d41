"""Resumes an interrupted training so that it ends with the same model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from realign_plugin.errors import UserError
from realign_plugin.text_files import read_json

WEIGHTS: Final = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
STATE: Final = "trainer_state.json"
"""What a trainer writes last into a checkpoint."""
OURS: Final = ("mask_dpo", "safety_distill")
"""Stages that detect that nothing is left to train."""


def go_on(folder: Path, stage: str) -> None:
    """Remove what would make a training fail when it is started again.

    Final weights without a marker were interrupted while they were saved, and the training would refuse the folder. A
    checkpoint without its last file is incomplete; one without its optimiser's state (``save_only_model``) would go on
    with a fresh optimiser and schedule. From a checkpoint of the last step transformers' trainer would train one step
    more, unless that ended an epoch: the training goes on from the one before it, or starts again.
    """
    for name in WEIGHTS:
        (folder / name).unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / STATE).exists() or not _leads_to_the_same(checkpoint, stage):
            shutil.rmtree(checkpoint)


def _leads_to_the_same(checkpoint: Path, stage: str) -> bool:
    try:
        state = read_json(checkpoint / STATE, "", "the trainer's state")
        if state["global_step"] >= state["max_steps"]:
            return stage in OURS or not state["epoch"] % 1
    except (UserError, KeyError, TypeError):
        return True
    # optimizer.pt, FSDP's optimizer.bin or optimizer_0, DeepSpeed's global_step4
    return any("optimizer" in path.name or path.name.startswith("global_step") for path in checkpoint.iterdir())
