"""What may be written where: never onto an input, and onto an existing model or adapter only on request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_file, clean_up, try_folder

LORA_FIELDS: Final = frozenset(
    (
        "peft_type", "task_type", "base_model_name_or_path", "inference_mode", "auto_mapping", "revision", "r",
        "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "fan_in_fan_out", "init_lora_weights",
        "modules_to_save", "rank_pattern", "alpha_pattern", "target_modules",
    )
)  # fmt: skip
"""Fields that ``SafetySubspace.to_lora`` writes; PEFT itself, and so each training, writes many more."""

_FOR_SOME: Final = frozenset(("target_parameters",))
"""Fields that it writes where the adapter has them."""

_PEFT_ALONE: Final = "peft_version"
"""A field that PEFT writes into every configuration, and ``SafetySubspace.save`` into none."""

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_MODELS: Final = (_CONFIG, "config.json", "*.safetensors", "*.bin", "*.index.json", "*.gguf", "*.pt", "*.pth")


def refuse_inputs(out: str | Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse an output that is one of the inputs, links resolved.

    Args:
        out: The output.
        inputs: What is read; None stands for an input that is not given.

    Raises:
        UserError: With the input.
    """
    for path in inputs:
        if path is not None and _same(out, path):
            raise UserError(f"{out}: is an input of this command ({path}), expected another path; it would be lost")


def check_adapter_folder(out: Path, inputs: Iterable[str | Path | None], *, overwrite: bool = False) -> None:
    """Refuse to write an adapter where something would be lost or nothing can be written.

    What export, fuse or transfer wrote earlier may be replaced: it can be made again.

    Args:
        out: The folder.
        inputs: What is read.
        overwrite: Whether any other adapter or model may be replaced, too.

    Raises:
        UserError: If the folder is an input, holds a model or an adapter, or cannot be written.
    """
    refuse_inputs(out, inputs)
    try_folder(out)
    clean_up(out)
    held = sorted({path.name for pattern in _MODELS for path in out.glob(pattern)})
    if not held or overwrite or (held == [_CONFIG, _WEIGHTS] and _made_by_us(out)):
        return
    raise UserError(
        f"{out}: holds {held[0]} that export, fuse or transfer did not write, expected a folder without a model or an "
        "adapter; give another folder, or --overwrite"
    )


def check_files(*outs: Path | None, inputs: Iterable[str | Path | None] = ()) -> None:
    """Check that files can be written before anything is paid for.

    Args:
        outs: The files; None stands for none.
        inputs: What is read.

    Raises:
        UserError: If one is an input, or cannot be written.
    """
    inputs = list(inputs)
    for out in outs:
        if out is not None:
            refuse_inputs(out, inputs)
            with atomic_file(out):
                pass


def _same(first: str | Path, second: str | Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def _made_by_us(folder: Path) -> bool:
    """Whether export, fuse or transfer wrote an adapter, and no training did."""
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if config["peft_type"] == "LORA":
            return set(config) - _FOR_SOME == LORA_FIELDS
        moved = any(source["role"] == "mask" for source in config["sources"])  # transfer's: the mask's own task
        return moved and _PEFT_ALONE not in config
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
