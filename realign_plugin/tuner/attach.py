"""Puts a subspace that is in memory into a model, and takes it out again."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel, get_peft_model
from torch import nn

from realign_plugin.errors import UserError
from realign_plugin.subspace.lora_adapters import Factors
from realign_plugin.subspace.spec import replace_spec
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.layer import linear_features
from realign_plugin.tuner.linear import is_linear_module


def attach_subspace(
    model: nn.Module, subspace: SafetySubspace, adapter_name: str = "default", is_trainable: bool = True
) -> PeftModel:
    """Put a subspace that is in memory into a model.

    Args:
        model: The base model.
        subspace: The subspace.
        adapter_name: Name of the adapter.
        is_trainable: Whether the logits are trained.

    Returns:
        The PEFT model.

    Raises:
        UserError: If the model lacks a target module, or shapes differ.
    """
    subspace = _fitted(model, subspace)
    config = SafetySubspaceConfig.from_spec(
        subspace.spec, base_model_name_or_path=subspace.base_model, inference_mode=not is_trainable
    )
    config.base_model_name_or_path = getattr(model, "name_or_path", None)
    peft_model = get_peft_model(model, config, adapter_name=adapter_name)
    peft_model.base_model.fill(subspace, adapter_name)
    return peft_model


def _fitted(model: nn.Module, subspace: SafetySubspace) -> SafetySubspace:
    """The subspace, once its modules are known to be linear modules of the model with the right shapes.

    In weight space, ``lora_target: all`` was resolved from the names of tensors; those that are not a linear module of
    the model (fused experts, say) are left out with a warning.
    """
    modules = dict(model.named_modules())
    spec = subspace.spec
    option = "task_adapters" if spec.vector_space == "lora" else "task_models"
    if spec.vector_space == "weight" and spec.lora_target == "all":
        linear = [name for name in subspace.logits if isinstance(modules.get(name), nn.Linear)]
        left_out = [name for name in subspace.logits if name not in set(linear)]
        if left_out and linear:
            warnings.warn(
                f"{len(left_out)} weights are not a linear module of {type(model).__name__} ({left_out[0]}, …): they "
                "stay as in the base model",
                stacklevel=3,
            )
            logits = {name: subspace.logits[name] for name in linear}
            spec = replace_spec(spec, target_modules=linear)
            subspace = SafetySubspace(spec, logits, subspace.aligned, subspace.deltas, subspace.base_model)
    for name in subspace.logits:
        if name in spec.parameters:
            continue  # the layer compares shapes when it is put in
        module = modules.get(name)
        if module is None:
            raise UserError(
                f"{option}: target module {name} is not in {type(model).__name__}, expected sources of this base "
                "model; check model_name_or_path"
            )
        if not (is_linear_module(module) if spec.vector_space == "lora" else isinstance(module, nn.Linear)):
            raise UserError(
                f"{option}: target module {name} is a {type(module).__name__}, expected torch.nn.Linear; "
                "mask linear modules only"
            )
        if spec.vector_space == "weight":
            continue  # tensors may be on disk still; shapes are compared as they are read
        pair = subspace.deltas[0][name]
        found = (pair["B"].shape[0], pair["A"].shape[1])
        shape = linear_features(module)[::-1]
        if found != shape:
            raise UserError(
                f"{option}: {name} was trained for a weight of shape {tuple(found)}, the base model has "
                f"{shape}, expected adapters of this base model; check "
                "model_name_or_path"
            )
    return subspace


def subspace_of(model: PeftModel, adapter_name: str = "default") -> SafetySubspace:
    """The subspace that a PEFT model holds, on the CPU, sharing nothing with it.

    Args:
        model: A PEFT model of this type.
        adapter_name: The adapter.
    """
    tuner = model.base_model
    config: SafetySubspaceConfig = tuner.peft_config[adapter_name]
    all_logits: Factors = {}
    all_aligned: Factors = {}
    all_deltas: list[Factors] = [{} for _ in range(config.kept_deltas)]
    for layer in tuner.layers():
        if adapter_name not in layer.specs:
            continue
        name = layer.module_name
        for factor in config.factors:
            logits, aligned, deltas = (
                None if t is None else t.detach().to("cpu", copy=True) for t in layer.parts(adapter_name, factor)
            )
            assert logits is not None
            assert deltas is not None
            all_logits.setdefault(name, {})[factor] = logits
            for kept, delta in zip(all_deltas, deltas.unbind(0), strict=True):
                kept.setdefault(name, {})[factor] = delta
            if aligned is not None:
                all_aligned.setdefault(name, {})[factor] = aligned
    return SafetySubspace(config, all_logits, all_aligned, all_deltas, config.base_model_name_or_path)


def model_folder(name: str, cache_dir: str | None = None) -> Path | None:
    """Where a model's files are on this machine: its folder, or the hub's cache once it was loaded; None if unknown.

    Args:
        name: A folder or a repository of the hub.
        cache_dir: The hub's cache, if not the usual one.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir)
    except ValueError:  # a name that the hub's client does not take, e.g. a path that is not a folder
        return None
    return Path(file).parent if isinstance(file, str) else None
