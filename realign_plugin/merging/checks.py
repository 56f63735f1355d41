"""Checks of a merge configuration before anything slow starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.merge_methods.base import ParameterScope
from mergekit.options import MergeOptions

from realign_plugin.errors import UserError, check_choice
from realign_plugin.merging.model_files import check_files, check_not_transposed
from realign_plugin.merging.output import check_output, check_tokenizer
from realign_plugin.merging.safe_updates import ADAPTERS, check_modules, check_sources
from realign_plugin.merging.settings import (
    all_settings,
    check_mask_settings,
    check_setting,
    check_whole,
    listed_models,
    shared_settings,
)
from realign_plugin.merging.slices import check_groups, check_layers
from realign_plugin.merging.sources import lora, subspace
from realign_plugin.merging.weights import check_disk, check_same_shapes, check_weights
from realign_plugin.outputs import refuse_inputs
from realign_plugin.subspace.building import check_same_model
from realign_plugin.subspace.checkpoints import Checkpoint, check_untied, linear_targets
from realign_plugin.subspace.files import tensor_shapes
from realign_plugin.subspace.fingerprints import check_same_base, differing, fingerprint, task_fingerprint
from realign_plugin.subspace.spec import SubspaceSpec

LOG = logging.getLogger(__name__)
METHODS: Final = ("safety_subspace", "safe_lora", "safe_merge")
Models = dict[ModelReference, Checkpoint]


def check_merge(config: MergeConfiguration, out: Path, options: MergeOptions) -> None:
    """Check everything about a merge with one of our methods that can be known before it starts.

    Args:
        config: The configuration.
        out: Where the model is to go.
        options: mergekit's options.

    Raises:
        UserError: With what is wrong, in one line.
    """
    method = config.merge_method
    if config.base_model is None:
        raise UserError(
            f"base_model: is not set, {method} expected the model that the adapters were trained on; set it"
        )
    known = {parameter.name: parameter for parameter in merge_methods.get(method).spec.parameters}
    for name, setting in all_settings(config):
        check_choice(f"parameters of {method}", name, sorted(known))
        check_setting(method, known[name], setting)
    for model, parameters in listed_models(config):
        for name in parameters:
            if known[name].scope is ParameterScope.SHARED:
                raise UserError(
                    f"{name}: is given under {model}, where mergekit does not read it, expected it under the merge's "
                    "own parameters (or a slice's); move it there"
                )
    check_whole(config)
    check_output(config)
    check_groups(config, config.base_model)
    check_layers(config)
    cache = options.transformers_cache
    models: Models = {config.base_model: _checkpoint(config.base_model, "base_model", cache)}
    for model, _ in listed_models(config):
        if model not in models:
            models[model] = _checkpoint(model, f"models ({model})", cache)
    _check_spelling(models)
    own = config.parameters or {}
    given = {name: setting for name, setting in own.items() if isinstance(setting, str)}
    adapters = [setting for name, setting in given.items() if name in ("adapter", *ADAPTERS)]
    refuse_inputs(out, [*(model.path for model in models.values()), *adapters])
    if (out / "adapter_config.json").exists():
        raise UserError(f"{out}: holds an adapter (adapter_config.json), expected none; give another folder")
    check_tokenizer(config, options)
    if method == "safety_subspace":
        check_base = known["check_base"].validate(own.get("check_base", True))
        modules = _check_safety_subspace(config, given.get("adapter"), models, check_base)
        check_mask_settings(config, known, subspace(given["adapter"]).spec.mask)
    else:
        modules = _check_safe_method(config, given, models)
    check_weights(config, options, models, modules)
    check_disk(config, list(models.values()), out)


def _check_spelling(models: Models) -> None:
    """Refuse two spellings of a folder: mergekit takes them for two models, even where one is the base."""
    known: dict[str, ModelReference] = {}
    for model, checkpoint in models.items():
        first = known.setdefault(os.path.realpath(checkpoint.path), model)
        if first != model:
            raise UserError(f"models: {model} is the folder {first}, expected one spelling of both; write {first}")


def _check_safety_subspace(
    config: MergeConfiguration, adapter: str | None, models: Models, check_base: bool
) -> dict[str, list[str]]:
    if adapter is None:
        raise UserError(
            "adapter: is not set, expected the folder of a trained safety subspace; set it under parameters"
        )
    trained = subspace(adapter)
    spec = trained.spec
    base, *others = models.values()
    if spec.vector_space == "lora" and others:
        raise UserError(
            f"models: {others[0].path} is listed, but {adapter} is in LoRA space and needs no model but "
            "the base, expected base_model alone; leave the others out"
        )
    if spec.vector_space == "weight" and len(others) != len(spec.task_weights):
        raise UserError(
            f"models: {len(others)} besides the base, expected the {len(spec.task_weights)} fine-tuned models that "
            "the "
            f"masks of {adapter} (in weight space) are for, in the order of its training; list them"
        )
    shapes = tensor_shapes(adapter)
    check_untied(base, shapes, "adapter")
    for module, parts in shapes.items():
        expected = (parts["B"][0], parts["A"][1]) if spec.vector_space == "lora" else parts["W"]
        found = base.shape(f"{module}.weight")
        if found != expected:
            raise UserError(
                f"base_model: {module} has shape {found} in {base.path}, {adapter} was trained for "
                f"{expected}, expected the same model; give the base that it was trained on"
            )
    for model in others:
        check_same_model(model, base, list(shapes))
        check_same_shapes(config, model, base)
    sampled = spec.sampled_modules or list(shapes)
    if check_base:
        right, fix = f"the model that {adapter} was trained on", "give it, or set check_base: false"
        check_same_base("base_model", base.path, right, spec.base_sha256, sampled, fix)
    if spec.vector_space == "weight":
        _check_order(adapter, spec, others, sampled)
        _tell_unmasked(adapter, spec, base, others, shapes)
    return {"adapter": list(shapes)}


def _check_order(adapter: str, spec: SubspaceSpec, models: list[Checkpoint], modules: list[str]) -> None:
    """Refuse the models of the training in another order: each has its own weight and, with DARE, its own drop."""
    recorded = [task_fingerprint(source) for source in spec.sources if source.get("role") == "task"]
    found = [fingerprint(model.path, modules) for model in models]
    places = [[differing(one, other) is None for other in found] for one in recorded]
    in_place = all(differing(one, other) is None for one, other in zip(recorded, found, strict=False))
    if not in_place and all(map(any, places)):
        order = ", ".join(str(models[row.index(True)].path) for row in places)
        raise UserError(
            f"models: {', '.join(str(model.path) for model in models)} are in another order than when {adapter} was "
            f"trained, expected {order}; list them so"
        )


def _tell_unmasked(
    adapter: str, spec: SubspaceSpec, base: Checkpoint, models: list[Checkpoint], masked: Iterable[str]
) -> None:
    """Warn about changes that are left out: modules that the models of the training had not changed have no mask."""
    if spec.lora_target != "all":
        return
    others = sorted(set(linear_targets(base, "all")) - set(masked))
    for model in models:
        lost = [module for module in others if not model.equals(base, f"{module}.weight", whole=False)]
        if lost:
            line = "%s changed %d modules that %s has no mask for (%s, …): they stay the base model's"
            LOG.warning(line, model.path, len(lost), adapter, lost[0])


def _check_safe_method(config: MergeConfiguration, given: Mapping[str, str], models: Models) -> dict[str, list[str]]:
    base, *listed = models.values()
    if any(name == "role" for name, _ in shared_settings(config)):
        raise UserError("role: is given for all models at once, expected one for each; put it under each of models")
    others = [(model, given) for model, given in listed_models(config) if model != config.base_model]
    # Slices list a model once for each range of layers.
    roles = [role for _, role in dict.fromkeys((model, str(own["role"])) for model, own in others if "role" in own)]
    for model, own in others:
        if "role" not in own:
            raise UserError(
                f"models: {model} has no role, so that {config.merge_method} would ignore it, expected role: "
                "unaligned, fine_tuned or safe under its parameters; add one, or leave the model out"
            )
    check_not_transposed(base, config.merge_method)
    check_sources(merge_methods.get(config.merge_method).spec, given, roles)
    adapters = {name: lora(given[name], name) for name in ADAPTERS if given.get(name)}
    for name, adapter in adapters.items():
        check_untied(base, adapter.factors, name)
        for module, pair in adapter.factors.items():
            expected, found = (pair["B"].shape[0], pair["A"].shape[1]), base.shape(f"{module}.weight")
            if found != expected:
                raise UserError(
                    f"{name}: {module} was trained for a weight of shape {expected}, {found} in the base {base.path}, "
                    "expected the same; give the base that the adapter was trained on"
                )
    check_modules(adapters)
    modules = {name: list(adapter.factors) for name, adapter in adapters.items()}
    for checkpoint in listed:
        check_same_model(checkpoint, base, [])
        check_same_shapes(config, checkpoint, base)
    return modules


def _checkpoint(model: ModelReference, what: str, cache: str | None) -> Checkpoint:
    if model.lora is not None:
        raise UserError(
            f"{what}: {model} holds a LoRA adapter, expected a plain model; merge it first, or give the adapter as a "
            "parameter"
        )
    try:
        found = Checkpoint(model.local_path(cache_dir=cache), what)
        check_files(found)
        return found
    except UserError:
        raise
    except Exception as error:  # the hub's client has many errors; the user has to correct the path
        raise UserError(
            f"{what}: {model} cannot be found ({type(error).__name__}), expected a folder or a model of the "
            "hub; check it"
        ) from error
