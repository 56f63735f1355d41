"""What a subspace to be trained is built from, and the building; no host is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.subspace.checkpoints import weight_files
from realign_plugin.subspace.fingerprints import record_base
from realign_plugin.subspace.fusing import ALL_ONES
from realign_plugin.subspace.options import OPTIONS
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.subspace.tensor_files import open_tensors
from realign_plugin.training.settings.inference import is_quantised_model
from realign_plugin.training.settings.preflight import LORA, check_compiled, check_options, split_paths


@dataclass
class Sources:
    """All that a subspace to be trained depends on."""

    spec: SubspaceSpec
    kind: str | None
    base: str | None
    aligned: str | None
    adapters: list[str]
    models: list[str]
    target: str | list[str]


kept: Final[list[tuple[Sources, SafetySubspace]]] = []
"""The subspace that the check of a command line built, until the training in the same process takes it."""


def build_subspace(options: Mapping[str, Any]) -> SafetySubspace:
    """Read and check the adapters, or the headers and first rows of the checkpoints; build the subspace to be trained.

    What :data:`kept` holds is taken instead where it was built from the same.

    Args:
        options: Our options by name, and the host's ``model_name_or_path`` and ``lora_target``.

    Raises:
        UserError: If a source cannot be read, or sources do not fit together or do not fit the base model, or
            ``mask_compile`` would do nothing for them.
    """
    sources = sources_of(options)
    found = next((subspace for known, subspace in kept if known == sources), None)
    kept.clear()
    subspace = _built(sources) if found is None else found
    if options.get("mask_compile"):
        check_compiled(subspace.spec)
    return subspace


def sources_of(options: Mapping[str, Any]) -> Sources:
    """What a subspace is built from, by our options and two of the host's; see :func:`build_subspace`."""
    target = options.get("lora_target") or "all"
    modules = [part.strip() for part in target.split(",")] if isinstance(target, str) else list(target)
    return Sources(
        check_options(options),
        kind=options.get("finetuning_type"),
        base=options.get("model_name_or_path"),
        aligned=options.get("aligned_adapter"),
        adapters=split_paths(options.get("task_adapters")),
        models=split_paths(options.get("task_models")),
        target="all" if modules == ["all"] else modules,
    )


def _built(sources: Sources) -> SafetySubspace:
    spec, base = sources.spec, sources.base
    chosen = {name: getattr(spec, name) for name in OPTIONS} | {"task_weight": spec.task_weights}
    if sources.kind == LORA:
        chosen |= {"mask_init": ALL_ONES, "mask": "binary"}
    if sources.models:
        folders = [local_model(path, f"task_models[{i}]") for i, path in enumerate(sources.models)]
        safe = local_model(base, "model_name_or_path")
        subspace = SafetySubspace.from_models(safe, folders, target=sources.target, **chosen)
        subspace.base_model = base
        return subspace
    subspace = SafetySubspace.from_adapters(sources.aligned, sources.adapters, **chosen)
    if sources.kind == LORA and subspace.spec.parameters:
        raise UserError(
            "finetuning_type: lora with adapters that have target_parameters (experts), of which PEFT takes one a "
            "model, and the teachers are more, expected 'safety_subspace'; set it"
        )
    check_base_model(base, subspace)
    record_base(subspace.spec, base)
    return subspace


def local_model(path: str | None, what: str) -> Path:
    """The folder of a model: itself, or the cached copy of one of the hub, downloaded if need be.

    Args:
        path: A folder or a hub id.
        what: What the user calls it.

    Raises:
        UserError: If it is neither a folder nor on the hub.
    """
    if path and Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path or "", allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # whatever the hub's client says, the user has to correct the path
        raise UserError(
            f"{what}: {path!r} is not a folder and cannot be fetched from the hub ({type(error).__name__}), expected "
            "a full checkpoint; check the path"
        ) from error


def memory_line(subspace: SafetySubspace) -> str | None:
    """What masks of single elements cost in weight space, in one line; None for anything coarser."""
    spec = subspace.spec
    if spec.vector_space != "weight" or spec.mask_granularity != "element":
        return None
    count = sum(t.numel() for pair in subspace.logits.values() for t in pair.values())
    return (
        f"mask_granularity: element on whole weights trains {count:,} logits: {16 * count / 2**30:.1f} GiB for "
        "logits, gradients and Adam's two moments in fp32 (a process, unless sharded); row needs a thousandth"
    )


def check_base_model(path: str | None, subspace: SafetySubspace) -> None:
    """Compare the subspace's shapes with the headers of a local model's safetensors files; no weight is read.

    A model of the hub, or one that names its weights otherwise than its modules, is checked when it is loaded.

    Args:
        path: ``model_name_or_path``.
        subspace: The subspace to be trained on it.

    Raises:
        UserError: If a file is corrupt, or a target module has another shape in the model.
    """
    for file in weight_files(Path(path), "model_name_or_path") if path and Path(path).is_dir() else ():
        reader = open_tensors(file, "model_name_or_path")
        names = set(reader.keys())
        for module, pair in subspace.deltas[0].items():
            if f"{module}.weight" not in names:
                continue
            shape = tuple(reader.get_slice(f"{module}.weight").get_shape())
            shape = shape[::-1] if subspace.spec.fan_in_fan_out else shape
            expected = (pair["B"].shape[0], pair["A"].shape[1])
            if len(shape) == 2 and shape != expected and not is_quantised_model(path):
                raise UserError(
                    f"model_name_or_path: {module} has shape {shape} in {path}, the adapters were trained for "
                    f"{expected}; "
                    "give the base model that they were trained on"
                )
