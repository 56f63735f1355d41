"""The user's own files by which a change of what a step reads is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MODEL: Final = (
    *("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"),
    *("model.safetensors.index.json", "model-*-of-*.safetensors"),
    *("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
)
"""Files by which a change of a given model is noticed."""


def model_files(folder: Path, cwd: Path) -> list[Path]:
    """Files of a model that are there and by which a change of it is noticed.

    Args:
        folder: Of the model.
        cwd: What it counts from.
    """
    found = [file for name in MODEL for file in sorted((cwd / folder).glob(name)) if file.is_file()]
    return [folder / file.name for file in found]


def compared_with(model_args: Mapping[str, Any], metadata: Mapping[str, Any], cwd: Path) -> list[Path]:
    """Files of the tokenizer, the judges and the samples that an evaluation names besides its model.

    Args:
        model_args: The configuration's ``--model_args``.
        metadata: lm-eval's ``--metadata``.
        cwd: What relative paths count from.
    """
    judges = metadata.get("judge_model") or []
    folders = [model_args.get("tokenizer"), *(judges.split(",") if isinstance(judges, str) else judges)]
    files = [file for folder in folders if folder for file in model_files(Path(str(folder).strip()), cwd)]
    reference = metadata.get("reference")
    if reference:
        place = Path(str(reference))
        samples = sorted((cwd / place).rglob("samples_*.jsonl"))
        files += [place / file.relative_to(cwd / place) for file in samples] or [place]
    return files
