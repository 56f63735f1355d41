"""What an earlier start of a run left in its folder: half a checkpoint, or all there is to do."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME
from realign_plugin.text_files import read_json

STATE: Final = "trainer_state.json"


def set_aside_incomplete(output_dir: str | Path) -> list[Path]:
    """Rename checkpoints that a kill or a full disk left half-written, so that the last good one is resumed from.

    The trainer writes ``trainer_state.json`` last: a checkpoint without a readable one, or without its adapter, is not
    whole. Several processes may call this at once.

    Args:
        output_dir: The run's output folder.

    Returns:
        The folders set aside, by their new names.
    """
    aside = []
    for folder in sorted(Path(output_dir).glob("checkpoint-*")):
        if not re.fullmatch(r"checkpoint-\d+", folder.name) or not folder.is_dir() or _is_whole(folder):
            continue
        target = folder.with_name(f"incomplete-{folder.name}-{os.getpid()}")
        try:
            folder.rename(target)
        except FileNotFoundError:
            continue  # another process was faster
        aside.append(target)
        print(f"realign-plugin: {folder} was not written to its end; it is now {target.name}", file=sys.stderr)
    return aside


def is_finished(output_dir: str | Path, steps: int) -> bool:
    """Whether a run has saved its final adapter and, after it, the state of a training of so many steps."""
    state = _state(Path(output_dir))
    return state is not None and state.get("max_steps") == steps and (Path(output_dir) / WEIGHTS_NAME).is_file()


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / STATE, "", "the trainer's state")
    except UserError:
        return None


def _is_whole(folder: Path) -> bool:
    if _state(folder) is None:
        return False
    return (folder / WEIGHTS_NAME).is_file() and (folder / CONFIG_NAME).is_file()
