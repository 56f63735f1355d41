"""What a safety subspace is built from before training: from LoRA adapters, and from full checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial, reduce
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.method.masks import logits_shape
from realign_plugin.subspace.checkpoints import Checkpoint, linear_targets
from realign_plugin.subspace.fingerprints import record_base, task_sha256
from realign_plugin.subspace.lora_adapters import Factors, LoraAdapter, check_same_modules, read_lora
from realign_plugin.subspace.lora_names import natural_key
from realign_plugin.subspace.options import check_option
from realign_plugin.subspace.spec import SubspaceSpec, check_logits, module_spec
from realign_plugin.subspace.task_vectors import difference, keep_vectors, task_weights
from realign_plugin.subspace.tensor_files import LazyFactors, Tensors


class Parts(NamedTuple):
    """What ``SafetySubspace`` is made of; see its attributes."""

    spec: SubspaceSpec
    logits: Tensors
    aligned: Tensors
    deltas: Sequence[Tensors]
    base_model: str | None = None
    unchanged: Sequence[str] = ()


def adapter_parts(
    aligned: str | Path | None,
    tasks: Sequence[str | Path],
    *,
    task_weight: float | Sequence[float] | None = None,
    **options: Any,
) -> Parts:
    """The parts of a subspace to be trained, from LoRA adapters on disk.

    Args:
        aligned: Folder of the aligned model's adapter; None where the base model itself is aligned.
        tasks: Folders of the fine-tuned models' adapters, one or more.
        task_weight: One lambda for all tasks, or one for each; None takes the fusion's default.
        **options: Any other field of ``SubspaceSpec``.

    Raises:
        UserError: If an adapter cannot be read, adapters do not fit together, or an option means nothing.
    """
    spec = _spec(len(tasks), task_weight, options | {"has_aligned": aligned is not None})
    safe = read_lora(aligned, "aligned_adapter", linear=False) if aligned is not None else None
    adapters = [read_lora(task, f"task_adapters[{i}]", linear=False) for i, task in enumerate(tasks)]
    for i, adapter in enumerate(adapters):
        if safe is not None:
            check_same_modules(adapter, safe, f"task_adapters[{i}]", "aligned_adapter")
        elif i:
            check_same_modules(adapter, adapters[0], f"task_adapters[{i}]", "task_adapters[0]")
        check_moved(adapter, safe, i)
    first = adapters[0]
    module_spec(spec, list(first.factors), first.ranks, first.alphas)
    spec.parameters, spec.target_parameters = first.parameters, first.config.target_parameters
    spec.target_modules = [module for module in first.factors if module not in spec.parameters]
    spec.fan_in_fan_out = first.config.fan_in_fan_out
    spec.use_rslora = first.config.use_rslora
    limited = first.config.layers_to_transform is not None or first.config.exclude_modules
    spec.lora_target = None if limited else first.config.target_modules
    spec.sources = [safe.provenance("aligned")] if safe else []
    spec.sources += [a.provenance("task", w) for a, w in zip(adapters, spec.task_weights, strict=True)]
    files = [*adapters, *([safe] if safe else [])]
    spec.vector_dtype = _common_dtype([t.dtype for a in files for pair in a.factors.values() for t in pair.values()])
    dtype = getattr(torch, spec.vector_dtype)
    start = safe.factors if safe else {}
    kept = _adapter_vectors(spec, start, adapters)
    theta_safe = {m: {f: t.to(dtype) for f, t in pair.items()} for m, pair in start.items()}
    shapes = {m: {f: t.shape for f, t in pair.items()} for m, pair in first.factors.items()}
    return Parts(spec, _initial_logits(spec, shapes), theta_safe, kept, first.base_model)


def model_parts(
    base: str | Path,
    tasks: Sequence[str | Path],
    *,
    target: str | Sequence[str] = "all",
    task_weight: float | Sequence[float] | None = None,
    **options: Any,
) -> Parts:
    """The parts of a weight-space subspace to be trained, from full checkpoints on disk.

    Headers are read and compared here, and the first rows of each target. Targets that no model changed, as in layers
    frozen in fine-tuning, are left out, and named in ``unchanged``: their task vector is 0 whatever the mask. Task
    vectors are computed one module at a time, on demand: no more than one tensor of each model is in
    memory at once.

    Args:
        base: Folder of the aligned model.
        tasks: Folders of the fine-tuned models, one or more.
        target: Modules to mask: ``all`` linear modules inside the layers, or ends of their names.
        task_weight: One lambda for all tasks, or one for each; None takes the fusion's default.
        **options: Any other field of ``SubspaceSpec``.

    Raises:
        UserError: If a checkpoint cannot be read, models do not fit together, a model equals the base in all targets,
            or an option means nothing. NaN in a tensor is reported when that tensor is read.
    """
    spec = _spec(len(tasks), task_weight, {"mask_granularity": "row"} | options, vector_space="weight")
    safe = Checkpoint(base, "model_name_or_path")
    models = [Checkpoint(task, f"task_models[{i}]") for i, task in enumerate(tasks)]
    modules = sorted(linear_targets(safe, target), key=natural_key)
    for model in models:
        check_same_model(model, safe, modules)
    named, modules = modules, _moved_modules(models, safe, modules)
    spec.target_modules = modules
    spec.lora_target = target if isinstance(target, str) else list(target)
    spec.vector_dtype = _common_dtype([m.dtype(f"{module}.weight") for m in [safe, *models] for module in modules])
    record_base(spec, base)
    spec.sources = [
        {"role": "task", "name": model.path.name, **task_sha256(model.path, spec.sampled_modules), "weight": weight}
        for model, weight in zip(models, spec.task_weights, strict=True)
    ]

    kept = _weight_vectors(spec, safe, models, modules)
    shapes = {module: {"W": torch.Size(safe.shape(f"{module}.weight"))} for module in modules}
    return Parts(spec, _initial_logits(spec, shapes), {}, kept, str(base), sorted(set(named) - set(modules)))


def check_same_model(model: Checkpoint, base: Checkpoint, modules: Sequence[str]) -> None:
    """Refuse a fine-tuned model whose weights cannot be subtracted from the base's.

    Args:
        model: The fine-tuned model.
        base: The aligned model.
        modules: Target modules.

    Raises:
        UserError: If architecture or shapes differ, with both values, or a weight is quantised.
    """
    for key in ("model_type", "num_hidden_layers", "hidden_size"):
        ours, theirs = model.config.get(key), base.config.get(key)
        if ours != theirs:
            raise UserError(
                f"{model.what}: {key} is {ours!r} in {model.path}, {theirs!r} in the base {base.path}, expected the "
                "same; give models fine-tuned from this base"
            )
    for module in modules:
        for one in (model, base):
            one.dtype(f"{module}.weight")  # what is quantised has another shape too
        ours, theirs = model.shape(f"{module}.weight"), base.shape(f"{module}.weight")
        if ours != theirs:
            raise UserError(
                f"{model.what}: {module} has shape {ours} in {model.path}, {theirs} in the base {base.path}, expected "
                "the same; give models fine-tuned from this base"
            )


def installed_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that a subspace depends on, as far as they are installed."""
    found = {}
    for name in ("realign-plugin", "torch", "safetensors", "peft", "transformers", "llamafactory"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _spec(tasks: int, task_weight: Any, options: dict[str, Any], vector_space: str = "lora") -> SubspaceSpec:
    defaults = {} if vector_space == "lora" else {"has_aligned": False}
    spec = SubspaceSpec(**{"vector_space": vector_space} | defaults | options)
    check_option("fusion_method", spec.fusion_method)
    spec.task_weights = task_weights(
        task_weight, tasks, spec.fusion_method, "adapters" if spec.vector_space == "lora" else "models"
    )
    spec.check()
    spec.versions = installed_versions()
    return spec


def _adapter_vectors(spec: SubspaceSpec, start: Factors, adapters: Sequence[LoraAdapter]) -> list[Factors]:
    """The kept task vectors of LoRA factors."""
    kept: list[Factors] = [{} for _ in range(spec.kept_deltas)]
    for module in adapters[0].factors:
        for factor in spec.factors:
            theta = start[module][factor] if start else None
            vectors = [difference(adapter.factors[module][factor], theta) for adapter in adapters]
            for delta, factors in zip(keep_vectors(spec, f"{module}.{factor}", vectors), kept, strict=True):
                factors.setdefault(module, {})[factor] = delta
    return kept


def _weight_vectors(
    spec: SubspaceSpec, safe: Checkpoint, models: Sequence[Checkpoint], modules: Sequence[str]
) -> list[LazyFactors]:
    """The kept task vectors of whole weights, each computed when it is asked for."""

    @lru_cache(maxsize=1)  # the kept vectors of one module are asked for one after the other
    def read(module: str) -> Tensor:
        theta = safe.tensor(f"{module}.weight")
        vectors = [difference(model.tensor(f"{module}.weight"), theta) for model in models]
        return keep_vectors(spec, f"{module}.W", vectors)

    def nth(number: int, module: str) -> dict[str, Tensor]:
        return {"W": read(module)[number]}

    return [LazyFactors(modules, partial(nth, number)) for number in range(spec.kept_deltas)]


def _initial_logits(spec: SubspaceSpec, shapes: dict[str, dict[str, torch.Size]]) -> Factors:
    granularity: Any = spec.mask_granularity
    logits: Factors = {}
    for module, pair in shapes.items():
        for factor in spec.factors:
            check_logits(spec, f"{module}.{factor}", pair[factor])
            value = torch.full(logits_shape(pair[factor], granularity), spec.mask_init, dtype=torch.float32)
            logits.setdefault(module, {})[factor] = value
    return logits


def _common_dtype(dtypes: Sequence[torch.dtype]) -> str:
    return str(reduce(torch.promote_types, dtypes)).removeprefix("torch.")


def _moved_modules(models: Sequence[Checkpoint], base: Checkpoint, modules: Sequence[str]) -> list[str]:
    """Modules that one of the models changed; the others' task vectors are 0, and there is nothing to mask.

    Raises:
        UserError: If a model equals the base in all of them.
    """
    moved: set[str] = set()
    for number, model in enumerate(models):
        own = {module for module in modules if not model.equals(base, f"{module}.weight")}
        if not own:
            raise UserError(
                f"task_models[{number}]: {model.path} equals the base {base.path} in every target module (the task "
                "vector is 0), expected the model after fine-tuning; give that one, or correct lora_target"
            )
        moved |= own
    return [module for module in modules if module in moved]


def check_moved(task: LoraAdapter, safe: LoraAdapter | None, number: int | None, what: str = "task_adapters") -> None:
    """Refuse a task vector of zeros: there would be nothing to mask.

    Args:
        task: The fine-tuned model's adapter.
        safe: The aligned model's; None where the base model itself is aligned.
        number: Which of several it is.
        what: What the user calls the adapter.

    Raises:
        UserError: If the adapters are equal, or without an aligned one, every B is 0.
    """
    name = what if number is None else f"{what}[{number}]"
    if safe is None:
        if all(not pair["B"].any() for pair in task.factors.values()):
            raise UserError(
                f"{name}: {task.path} changes nothing (every B is 0), expected a trained adapter; "
                "give the adapter after fine-tuning"
            )
        return
    moved = any(
        not torch.equal(pair[factor], safe.factors[module][factor])
        for module, pair in task.factors.items()
        for factor in pair
    )
    if not moved:
        raise UserError(
            f"{name}: {task.path} equals aligned_adapter {safe.path} (the task vector is 0), "
            "expected the adapter after fine-tuning; give that one"
        )
