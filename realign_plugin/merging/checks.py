"""Checks of a merge configuration before anything slow starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from mergekit import merge_methods
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import ConditionalParameter, MergeConfiguration

from realign_plugin.building import check_same_model
from realign_plugin.checkpoints import Checkpoint, fingerprint
from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.masks import MASK_KINDS
from realign_plugin.merging.safe_updates import ADAPTERS, ROLES, check_sources
from realign_plugin.merging.sources import lora, subspace
from realign_plugin.subspace import tensor_shapes

METHODS: Final = ("safety_subspace", "safe_lora", "safe_merge")
RANGES: Final = {"strength": (0.0, 2.0), "threshold": (-1.0, 1.0), "weight": (0.0, 1.0)}
GRADIENTS: Final = ("strength", "threshold", "weight")
"""Parameters of which a list is a gradient over the layers, as everywhere in mergekit."""


def check_merge(config: MergeConfiguration, out: Path, cache: str | None = None) -> None:
    """Check everything about a merge with one of our methods that can be known before it starts.

    Args:
        config: The configuration.
        out: Where the model is to go.
        cache: mergekit's cache of hub models.

    Raises:
        UserError: With what is wrong, in one line.
    """
    method = config.merge_method
    if config.base_model is None:
        raise UserError(
            f"base_model: is not set, {method} expected the model that the adapters were trained on; set it"
        )
    settings = list(_settings(config))
    known = {parameter.name for parameter in merge_methods.get(method).spec.parameters}
    for name, setting in settings:
        check_choice(f"parameters of {method}", name, sorted(known))
        _check_setting(method, name, setting)
    given = {name: setting for name, setting in settings if isinstance(setting, str)}
    base = _checkpoint(config.base_model, "base_model", cache)
    others = {str(m): m for m, _ in _models(config) if m != config.base_model}
    if method == "safety_subspace":
        _check_safety_subspace(config, given, settings, base, others, cache)
    else:
        roles = [str(p["role"]) for _, p in _models(config) if "role" in p]
        for role in roles:
            check_choice("role", role, ROLES)
        check_sources(merge_methods.get(method).spec, given, roles)
        for name in ADAPTERS:
            if given.get(name):
                _check_lora(name, given[name], base)
        for text, model in others.items():
            checkpoint = _checkpoint(model, f"models ({text})", cache)
            check_same_model(checkpoint, base, [])
            _check_other_shapes(config, checkpoint, base)
    _check_disk(config, base, out)


def _check_safety_subspace(
    config: MergeConfiguration,
    given: Mapping[str, str],
    settings: list[tuple[str, Any]],
    base: Checkpoint,
    others: Mapping[str, ModelReference],
    cache: str | None,
) -> None:
    if "adapter" not in given:
        raise UserError(
            "adapter: is not set, expected the folder of a trained safety subspace; set it under parameters"
        )
    trained = subspace(given["adapter"])
    spec = trained.spec
    if spec.vector_space == "lora" and others:
        raise UserError(
            f"models: {next(iter(others))} is listed, but {given['adapter']} is in LoRA space and needs no model but "
            "the base, expected base_model alone; leave the others out"
        )
    if spec.vector_space == "weight" and len(others) != len(spec.task_weights):
        raise UserError(
            f"models: {len(others)} beside the base, expected the {len(spec.task_weights)} fine-tuned models that the "
            f"masks of {given['adapter']} (in weight space) are for, in the order of its training; list them"
        )
    shapes = tensor_shapes(given["adapter"], spec)
    for module, parts in shapes.items():
        expected = (parts["B"][0], parts["A"][1]) if spec.vector_space == "lora" else parts["W"]
        found = base.shape(f"{module}.weight")
        if found != expected:
            raise UserError(
                f"base_model: {module} has shape {found} in {base.path}, {given['adapter']} was trained for "
                f"{expected}, expected the same model; give the base that it was trained on"
            )
    for index, (text, model) in enumerate(others.items()):
        checkpoint = _checkpoint(model, f"models[{index}] ({text})", cache)
        check_same_model(checkpoint, base, list(shapes))
        _check_other_shapes(config, checkpoint, base)
    if all(setting is not False for name, setting in settings if name == "check_base"):
        _check_base(given["adapter"], spec.base_sha256, base, list(trained.spec.target_modules or shapes))


def _check_base(adapter: str, recorded: Mapping[str, str], base: Checkpoint, modules: list[str]) -> None:
    """Refuse a base that is not the one the adapter was trained on."""
    found = fingerprint(base.path, modules)
    for part in ("config", "weights"):
        if part in recorded and part in found and recorded[part] != found[part]:
            raise UserError(
                f"base_model: {base.path} is not the model that {adapter} was trained on (sha256 of its {part}: "
                f"{found[part][:12]}…, recorded {recorded[part][:12]}…), expected that one; give it, or set "
                "check_base: false"
            )


def _check_other_shapes(config: MergeConfiguration, model: Checkpoint, base: Checkpoint) -> None:
    """Refuse weights of another shape, unless mergekit's tokenizer settings bring the vocabularies together."""
    if config.tokenizer or config.tokenizer_source:
        return
    for name in base.names:
        if model.find(name) is not None and model.shape(name) != base.shape(name):
            raise UserError(
                f"{model.what}: {name} has shape {model.shape(name)}, {base.shape(name)} in the base {base.path}, "
                "expected the same; where only the vocabulary was resized, add `tokenizer: {source: base}`"
            )


def _check_lora(name: str, path: str, base: Checkpoint) -> None:
    for module, pair in lora(path, name).factors.items():
        expected, found = (pair["B"].shape[0], pair["A"].shape[1]), base.shape(f"{module}.weight")
        if found != expected:
            raise UserError(
                f"{name}: {module} was trained for a weight of shape {expected}, {found} in the base {base.path}, "
                "expected the same; give the base that the adapter was trained on"
            )


def _check_setting(method: str, name: str, setting: Any) -> None:
    """Refuse values out of range, and lists that mergekit would silently take for a gradient over the layers."""
    values = [setting]
    if isinstance(setting, ConditionalParameter):
        values = [setting.value]
    elif isinstance(setting, list) and setting and all(isinstance(part, ConditionalParameter) for part in setting):
        values = [part.value for part in setting]
    conditional = values != [setting]
    if conditional and name in ("adapter", "check_base", *ADAPTERS):
        raise UserError(f"{name}: is given by filter, expected one value for the whole model; give a single one")
    for value in values:
        if isinstance(value, list) and name not in GRADIENTS:
            raise UserError(
                f"{name}: {value!r} is a list, which mergekit would spread over the layers, expected one value; give "
                "one (several task adapters are fused when the subspace is trained)"
            )
        for part in value if isinstance(value, list) else [value]:
            if name == "mask":
                check_choice("mask", part, MASK_KINDS)
            elif name == "threshold" and method == "safety_subspace":
                check_range(name, part, 0.0, 1.0, low_open=True)
            elif name in RANGES:
                check_range(name, part, *RANGES[name])


def _models(config: MergeConfiguration) -> Iterator[tuple[ModelReference, Mapping[str, Any]]]:
    """All models that are listed, with their own parameters."""
    for model in config.models or []:
        yield model.model, model.parameters or {}
    slices = [*(config.slices or [])]
    for module in (config.modules or {}).values():
        slices += module.slices or []
        for model in module.models or []:
            yield model.model, model.parameters or {}
    for part in slices:
        for source in part.sources:
            yield source.model, source.parameters or {}


def _settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """All parameter settings of the configuration, wherever they stand."""
    yield from (config.parameters or {}).items()
    for _, parameters in _models(config):
        yield from parameters.items()
    for module in (config.modules or {}).values():
        yield from (module.parameters or {}).items()
    for part in config.slices or []:
        yield from (part.parameters or {}).items()


def _checkpoint(model: ModelReference, what: str, cache: str | None) -> Checkpoint:
    if model.lora is not None:
        raise UserError(
            f"{what}: {model} holds a LoRA adapter, expected a plain model; merge it first, or give the adapter as a "
            "parameter"
        )
    try:
        return Checkpoint(model.local_path(cache_dir=cache), what)
    except UserError:
        raise
    except Exception as error:  # the hub's client has many errors; the user has to correct the path
        raise UserError(
            f"{what}: {model} cannot be found ({type(error).__name__}), expected a folder or a model of the "
            "hub; check it"
        ) from error


def _check_disk(config: MergeConfiguration, base: Checkpoint, out: Path) -> None:
    """Refuse a merge for whose output there is no room."""
    written = dtype_from_name(config.out_dtype or config.dtype)
    needed = 0
    for name in base.names:
        count = 1
        for size in base.shape(name):
            count *= size
        needed += count * (torch.finfo(written).bits // 8 if written else base.element_size(name))
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{out}: {free / 2**30:.1f} GiB are free, the merged model needs {needed / 2**30:.1f} GiB, expected room "
            "for it; free some, or write elsewhere"
        )
