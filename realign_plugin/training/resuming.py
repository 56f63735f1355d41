"""Going on: what an earlier start of a run left in its folder."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.files import sha256
from realign_plugin.subspace.files import read_spec
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME
from realign_plugin.subspace.training_record import KEY, TrainingRecord
from realign_plugin.text_files import read_json

STATE: Final = "trainer_state.json"
EVALUATED: Final = "eval_results.json"
RESULTS: Final = ("all_results.json", "train_results.json", EVALUATED)
"""What the host leaves of a run's measurements."""


def check_start(training_args: Any, finetuning_args: Any, resumed: Sequence[str]) -> TrainingRecord:
    """Find the checkpoint that the host will go on from, and refuse it where it is another training's.

    Args:
        training_args: The host's training arguments.
        finetuning_args: Ours, with the subspace that was built, if one was.
        resumed: ``adapter_name_or_path``.

    Returns:
        What the checkpoints of this run will be known by.

    Raises:
        UserError: If the run would go on from another training's checkpoint.
    """
    names = finetuning_args.real_names
    spec = read_spec(Path(resumed[0]))[0] if resumed else finetuning_args.subspace.spec
    start = sha256(Path(resumed[0]) / WEIGHTS_NAME) if resumed else None
    record = TrainingRecord.of(names["stage"], names["finetuning_type"], spec, start)
    checkpoint, fix = training_args.resume_from_checkpoint, "give one of this training, or none"
    if checkpoint is True or (checkpoint is None and not getattr(training_args, "overwrite_output_dir", False)):
        set_aside_incomplete(training_args.output_dir)
        checkpoint = _last_checkpoint(training_args.output_dir)
        fix = "give another output_dir, or set overwrite_output_dir: true to start from the beginning"
    if checkpoint:
        state = _state(Path(checkpoint)) or {}
        record.check(
            TrainingRecord.read(state.get("stateful_callbacks")), f"resume_from_checkpoint: {checkpoint}", fix
        )
    return record


def set_aside_incomplete(output_dir: str | Path) -> list[Path]:
    """Rename checkpoints that a kill or a full disk left half-written, so that the last good one is resumed from.

    The trainer writes ``trainer_state.json`` last: a checkpoint without a readable one, or without its adapter, is not
    whole. Several processes may call this at once.

    Args:
        output_dir: The run's output folder.

    Returns:
        The folders set aside, by their new names.
    """
    return [
        target
        for folder in _checkpoints(output_dir)
        if not _is_whole(folder) and (target := _set_aside(folder, "incomplete", "was not written to its end"))
    ]


def set_aside_earlier(output_dir: str | Path) -> None:
    """Remove the results of an earlier run, and rename its checkpoints: one starts that does not go on from them.

    Stopped before its own first checkpoint, the run that starts would else be taken for the earlier one. Several
    processes may call this at once.

    Args:
        output_dir: The run's output folder.
    """
    for name in (STATE, *RESULTS):
        (Path(output_dir) / name).unlink(missing_ok=True)
    for folder in _checkpoints(output_dir):
        _set_aside(folder, "earlier", "is an earlier run's")


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = sorted(Path(output_dir).glob("checkpoint-*"))
    return [folder for folder in folders if re.fullmatch(r"checkpoint-\d+", folder.name) and folder.is_dir()]


def _set_aside(folder: Path, prefix: str, why: str) -> Path | None:
    target = folder.with_name(f"{prefix}-{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        folder.rename(target)
    except FileNotFoundError:
        return None  # another process was faster
    print(f"realign-plugin: {folder} {why}; it is now {target.name}", file=sys.stderr)
    return target


def is_finished(output_dir: str | Path, steps: int) -> bool:
    """Whether a run has saved its final adapter and, after it, the state of a training of so many steps."""
    state = _state(Path(output_dir))
    return state is not None and state.get("max_steps") == steps and (Path(output_dir) / WEIGHTS_NAME).is_file()


def _last_checkpoint(output_dir: str | Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / STATE, "", "the trainer's state")
    except UserError:
        return None


def _is_whole(folder: Path) -> bool:
    state = _state(folder)
    if state is None:
        return False
    if KEY not in (state.get("stateful_callbacks") or {}):
        return True  # another tool's, which does not save an adapter
    return (folder / WEIGHTS_NAME).is_file() and (folder / CONFIG_NAME).is_file()
