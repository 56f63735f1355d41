"""A safety subspace on disk: the names of its tensors, and what is checked before one is read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.lora_adapters import CONFIG_NAME, MODEL_PREFIX, WEIGHTS_NAME, natural_key, read_adapter_config
from realign_plugin.spec import SubspaceSpec
from realign_plugin.tensor_files import open_tensors

PEFT_TYPE: Final = "SAFETY_SUBSPACE"
PREFIX: Final = "safety_subspace_"


def read_spec(path: Path) -> tuple[SubspaceSpec, str | None]:
    """A saved subspace's description, and the name of its base model, if known.

    Args:
        path: Folder of the subspace.

    Raises:
        UserError: If ``adapter_config.json`` is missing, corrupt, or no safety subspace's.
    """
    config = read_adapter_config(path, "adapter")
    if config.get("peft_type") != PEFT_TYPE:
        raise UserError(
            f"adapter: {path} has peft_type {config.get('peft_type')!r}, expected {PEFT_TYPE!r}; "
            "give the output folder of a mask_dpo run"
        )
    names = {field.name for field in fields(SubspaceSpec)}
    spec = SubspaceSpec(**{key: value for key, value in config.items() if key in names})
    spec.check()
    return spec, config.get("base_model_name_or_path")


def tensor_shapes(path: str | Path, spec: SubspaceSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of what a saved subspace masks, from the header of its file alone.

    Args:
        path: Folder of the subspace.
        spec: Its description.

    Returns:
        ``{module: {factor: (rows, columns)}}``.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    reader = open_tensors(Path(path) / WEIGHTS_NAME, "adapter")
    for name in reader.keys():  # noqa: SIM118 - safe_open is no mapping
        stem, _, part = name.rpartition(f".{PREFIX}")
        kind, _, factor = part.partition("_")
        if kind == "deltas":
            module = stem.removeprefix(MODEL_PREFIX)
            shapes.setdefault(module, {})[factor] = tuple(reader.get_slice(name).get_shape()[1:])
    return dict(sorted(shapes.items(), key=lambda item: natural_key(item[0])))


def check_tensors(spec: SubspaceSpec, file: Path, reader: Any) -> list[str]:
    """The modules that a subspace's file holds, in natural order, once every tensor is known to be there.

    Args:
        spec: What the file should hold.
        file: The file, for messages.
        reader: Its reader.

    Raises:
        UserError: If a tensor is missing, or their number is another.
    """
    names = set(reader.keys())
    stems = sorted({name.rpartition(f".{PREFIX}")[0] for name in names}, key=natural_key)
    modules = [stem.removeprefix(MODEL_PREFIX) for stem in stems]
    kinds = ("logits", "deltas", "aligned") if spec.has_aligned else ("logits", "deltas")
    for stem, module in zip(stems, modules, strict=True):
        for factor in spec.factors:
            lost = [kind for kind in kinds if f"{stem}.{PREFIX}{kind}_{factor}" not in names]
            if lost:
                raise UserError(
                    f"adapter: {file} lacks {stem}.{PREFIX}{lost[0]}_{factor}, expected it for every target module; "
                    "copy the whole folder again"
                )
            kept = reader.get_slice(f"{stem}.{PREFIX}deltas_{factor}").get_shape()[0]
            if kept != spec.kept_deltas:
                raise UserError(
                    f"adapter: {file} holds {kept} task vectors for {module}, {CONFIG_NAME} says {spec.kept_deltas}; "
                    "the two files belong to different runs"
                )
    if not modules:
        raise UserError(f"adapter: {file} holds no tensor, expected a safety subspace; copy the whole folder again")
    return modules
