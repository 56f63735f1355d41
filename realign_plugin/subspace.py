"""``SafetySubspace``: the one object for a trained subspace, on disk and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial, reduce
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from realign_plugin.atomic import atomic_folder, write_json
from realign_plugin.errors import UserError, check_choice
from realign_plugin.fusion import FUSION_METHODS, collapse, default_task_weight, is_linear, ties_select
from realign_plugin.lora_adapters import (
    CONFIG_NAME,
    MODEL_PREFIX,
    WEIGHTS_NAME,
    Factors,
    LoraAdapter,
    check_same_modules,
    natural_key,
    read_adapter_config,
    read_lora,
    read_tensors,
)
from realign_plugin.masks import apply_mask, inference_mask, logits_shape, tensor_seed
from realign_plugin.spec import SubspaceSpec, check_mask, module_spec

PEFT_TYPE: Final = "SAFETY_SUBSPACE"
PREFIX: Final = "safety_subspace_"
FACTORS: Final = ("A", "B")


def select_for(spec: SubspaceSpec) -> Any:
    """The selection that a fusion makes of masked task vectors, for ``masks.masked_add``; None where it is linear."""
    if is_linear(spec.fusion_method):  # type: ignore[arg-type]
        return None
    return partial(ties_select, weights=spec.task_weights, density=spec.ties_density)


def effective_tensor(
    spec: SubspaceSpec,
    name: str,
    logits: Tensor,
    aligned: Tensor | None,
    deltas: Tensor,
    *,
    mask: str | Tensor | None = None,
    threshold: float | None = None,
    seed: int | None = None,
) -> Tensor:
    """One effective tensor: theta_safe + fuse(lambda * (m * delta)) / mean(m) (SOMF, equation 4).

    Args:
        spec: Fusion and mask settings.
        name: The tensor's name, ``module.A`` or ``module.B``; with the seed it seeds the draw.
        logits: Logits of the tensor.
        aligned: theta_safe ``[rows, columns]``, or None for zeros.
        deltas: Kept task vectors, ``[kept, rows, columns]``.
        mask: Kind of the mask, or a mask itself; None takes the spec's.
        threshold: Threshold of the binary mask; None takes the spec's.
        seed: Seed of a drawn mask; None takes the spec's.

    Returns:
        fp32 tensor ``[rows, columns]``.
    """
    if not isinstance(mask, Tensor):
        mask = inference_mask(
            logits,
            mask or spec.mask,  # type: ignore[arg-type]
            threshold=spec.mask_threshold if threshold is None else threshold,
            seed=tensor_seed(spec.mask_seed if seed is None else seed, name),
            temperature=spec.mask_temperature,
        )
    select = select_for(spec)
    delta = deltas[0] if select is None else select(deltas, mask)
    return apply_mask(aligned, delta, mask, rescale=spec.mask_rescale)


class SafetySubspace:
    """A safety subspace: mask logits, aligned factors and task vectors of each target module.

    Attributes:
        spec: Modules, fusion, mask and provenance.
        base_model: Name or path of the base model, if known.
        logits: ``{module: {"A": [r, in], "B": [out, r]}}``, fp32, with 1 where granularity is coarser.
        aligned: theta_safe, same nesting; empty where the base model is the aligned model.
        deltas: A list of task vectors, each of the same nesting: one where the fusion is linear, else one for each
            task.
    """

    def __init__(
        self,
        spec: SubspaceSpec,
        logits: Factors,
        aligned: Factors,
        deltas: list[Factors],
        base_model: str | None = None,
    ) -> None:
        """Put the parts together; nothing is copied."""
        self.spec = spec
        self.logits = logits
        self.aligned = aligned
        self.deltas = deltas
        self.base_model = base_model

    def __repr__(self) -> str:
        """Modules, fusion and mask in one line."""
        return (
            f"SafetySubspace({len(self.logits)} modules, {len(self.spec.task_weights)} tasks, "
            f"{self.spec.fusion_method}, mask={self.spec.mask})"
        )

    @classmethod
    def from_adapters(
        cls,
        aligned: str | Path | None,
        tasks: Sequence[str | Path],
        *,
        task_weight: float | Sequence[float] | None = None,
        **options: Any,
    ) -> SafetySubspace:
        """Build a subspace to be trained from LoRA adapters on disk.

        Args:
            aligned: Folder of the aligned model's adapter; None where the base model itself is aligned.
            tasks: Folders of the fine-tuned models' adapters, one or more.
            task_weight: One lambda for all tasks, or one for each; None takes the fusion's default.
            **options: Any other field of ``SubspaceSpec``.

        Raises:
            UserError: If an adapter cannot be read, adapters do not fit together, or an option means nothing.
        """
        spec = SubspaceSpec(has_aligned=aligned is not None, **options)
        check_choice("fusion_method", spec.fusion_method, FUSION_METHODS)
        spec.task_weights = task_weights(task_weight, len(tasks), spec.fusion_method)
        spec.check()
        safe = read_lora(aligned, "aligned_adapter") if aligned is not None else None
        adapters = [read_lora(task, f"task_adapters[{i}]") for i, task in enumerate(tasks)]
        for i, adapter in enumerate(adapters):
            if safe is not None:
                check_same_modules(adapter, safe, f"task_adapters[{i}]", "aligned_adapter")
            elif i:
                check_same_modules(adapter, adapters[0], f"task_adapters[{i}]", "task_adapters[0]")
            _check_moved(adapter, safe, i)
        first = adapters[0]
        module_spec(spec, list(first.factors), first.ranks, first.alphas)
        spec.use_rslora = bool(first.config.get("use_rslora"))
        spec.lora_target = first.config.get("target_modules")
        spec.sources = [safe.provenance("aligned")] if safe else []
        spec.sources += [a.provenance("task", w) for a, w in zip(adapters, spec.task_weights, strict=True)]
        spec.versions = installed_versions()
        return cls._build(spec, safe, adapters)

    @classmethod
    def _build(cls, spec: SubspaceSpec, safe: LoraAdapter | None, adapters: list[LoraAdapter]) -> SafetySubspace:
        tensors = [
            t for a in [*adapters, *([safe] if safe else [])] for pair in a.factors.values() for t in pair.values()
        ]
        dtype = reduce(torch.promote_types, (t.dtype for t in tensors))
        spec.vector_dtype = str(dtype).removeprefix("torch.")
        logits: Factors = {}
        kept: list[Factors] = [{} for _ in range(spec.kept_deltas)]
        for module, pair in adapters[0].factors.items():
            logits[module] = {}
            for factor in FACTORS:
                start = safe.factors[module][factor] if safe else None
                vectors = [_difference(adapter.factors[module][factor], start) for adapter in adapters]
                if is_linear(spec.fusion_method):  # type: ignore[arg-type]
                    vectors = [
                        collapse(
                            vectors,
                            spec.fusion_method,  # type: ignore[arg-type]
                            spec.task_weights,
                            dare_drop_rate=spec.dare_drop_rate,
                            seed=spec.fusion_seed,
                            name=f"{module}.{factor}",
                        )
                    ]
                for vector, factors in zip(vectors, kept, strict=True):
                    factors.setdefault(module, {})[factor] = vector.to(dtype).contiguous()
                shape = logits_shape(pair[factor].shape, spec.mask_granularity)  # type: ignore[arg-type]
                logits[module][factor] = torch.full(shape, spec.mask_init, dtype=torch.float32)
        aligned = {m: {f: t.to(dtype) for f, t in p.items()} for m, p in safe.factors.items()} if safe else {}
        return cls(spec, logits, aligned, kept, adapters[0].base_model)

    def effective(
        self, mask: str | None = None, threshold: float | None = None, seed: int | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """The factors that forward uses: theta_safe + fuse(lambda * (m * delta)) / mean(m).

        Args:
            mask: ``soft``, ``binary``, ``sampled`` or ``relaxed``; None takes the subspace's own.
            threshold: Threshold of ``binary``.
            seed: Seed of ``sampled`` and ``relaxed``.

        Returns:
            ``{module: {"A": [r, in], "B": [out, r]}}``, fp32.

        Raises:
            UserError: If the mask is unknown or the threshold out of range.
        """
        check_mask(mask or self.spec.mask, self.spec.mask_threshold if threshold is None else threshold)
        return {
            module: {
                factor: effective_tensor(
                    self.spec,
                    f"{module}.{factor}",
                    self.logits[module][factor],
                    self.aligned[module][factor] if self.aligned else None,
                    torch.stack([kept[module][factor] for kept in self.deltas]),
                    mask=mask,
                    threshold=threshold,
                    seed=seed,
                )
                for factor in FACTORS
            }
            for module in self.logits
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors under the names they have on disk and in ``peft.get_peft_model_state_dict``."""
        state: dict[str, Tensor] = {}
        for module in self.logits:
            for factor in FACTORS:
                stem = f"{MODEL_PREFIX}{module}.{PREFIX}"
                state[f"{stem}logits_{factor}"] = self.logits[module][factor]
                state[f"{stem}deltas_{factor}"] = torch.stack([kept[module][factor] for kept in self.deltas])
                if self.aligned:
                    state[f"{stem}aligned_{factor}"] = self.aligned[module][factor]
        return state

    def save(self, path: str | Path) -> Path:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, each whole or not at all.

        Args:
            path: Folder to write to.

        Returns:
            The folder.

        Raises:
            UserError: If the folder cannot be written.
        """
        path = Path(path)
        config = asdict(self.spec) | _peft_fields(PEFT_TYPE, self.base_model)
        with atomic_folder(path) as work:
            state = {name: tensor.detach().contiguous().cpu() for name, tensor in self.state_dict().items()}
            save_file(state, work / WEIGHTS_NAME, metadata={"format": "pt"})
            write_json(work / CONFIG_NAME, config)
        return path

    @classmethod
    def load(cls, path: str | Path) -> SafetySubspace:
        """Read a saved subspace; no path of the machine that trained it is needed.

        Args:
            path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            UserError: If it is missing, corrupt, or no safety subspace.
        """
        path = Path(path)
        config = read_adapter_config(path, "adapter")
        if config.get("peft_type") != PEFT_TYPE:
            raise UserError(
                f"adapter: {path} has peft_type {config.get('peft_type')!r}, expected {PEFT_TYPE!r}; "
                "give the output folder of a mask_dpo run"
            )
        names = {field.name for field in fields(SubspaceSpec)}
        spec = SubspaceSpec(**{key: value for key, value in config.items() if key in names})
        spec.check()
        file = path / WEIGHTS_NAME
        if not file.is_file():
            raise UserError(f"adapter: {file} does not exist, expected the subspace's tensors; copy the whole folder")
        tensors = read_tensors(file, "adapter")
        logits: Factors = {}
        aligned: Factors = {}
        deltas: list[Factors] = [{} for _ in range(spec.kept_deltas)]
        stems = sorted({name.rpartition(f".{PREFIX}")[0] for name in tensors}, key=natural_key)
        for stem in stems:
            module = stem.removeprefix(MODEL_PREFIX)
            for factor in FACTORS:
                part = {
                    kind: tensors.get(f"{stem}.{PREFIX}{kind}_{factor}") for kind in ("logits", "deltas", "aligned")
                }
                found_logits, found_deltas, found_aligned = part["logits"], part["deltas"], part["aligned"]
                if found_logits is None or found_deltas is None or (spec.has_aligned and found_aligned is None):
                    lost = next(k for k, v in part.items() if v is None)
                    raise UserError(
                        f"adapter: {file} lacks {stem}.{PREFIX}{lost}_{factor}, expected it for every target module; "
                        "copy the whole folder again"
                    )
                if found_deltas.shape[0] != spec.kept_deltas:
                    raise UserError(
                        f"adapter: {file} holds {found_deltas.shape[0]} task vectors for {module}, {CONFIG_NAME} says "
                        f"{spec.kept_deltas}; the two files belong to different runs"
                    )
                logits.setdefault(module, {})[factor] = found_logits
                for kept, delta in zip(deltas, found_deltas.unbind(0), strict=True):
                    kept.setdefault(module, {})[factor] = delta
                if found_aligned is not None:
                    aligned.setdefault(module, {})[factor] = found_aligned
        if not logits:
            raise UserError(
                f"adapter: {file} holds no tensor, expected a safety subspace; copy the whole folder again"
            )
        return cls(spec, logits, aligned, deltas, config.get("base_model_name_or_path"))

    def to_lora(
        self,
        path: str | Path,
        mask: str | None = None,
        threshold: float | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        """Write a plain PEFT LoRA adapter that any LoRA consumer loads.

        Args:
            path: Folder to write to.
            mask: Kind of the mask; None takes the subspace's own.
            threshold: Threshold of ``binary``.
            seed: Seed of ``sampled`` and ``relaxed``.
            dtype: Dtype of the written factors; fp32 is exactly what forward uses.

        Returns:
            The folder.

        Raises:
            UserError: If the mask is unknown, or the folder cannot be written.
        """
        path = Path(path)
        factors = self.effective(mask, threshold, seed)
        config = _peft_fields("LORA", self.base_model) | {
            "r": self.spec.r,
            "lora_alpha": self.spec.lora_alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.spec.use_rslora,
            "use_dora": False,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "modules_to_save": None,
            "rank_pattern": self.spec.rank_pattern,
            "alpha_pattern": self.spec.alpha_pattern,
            "target_modules": self.spec.lora_target or self.spec.target_modules,
        }
        state = {
            f"{MODEL_PREFIX}{module}.lora_{factor}.weight": tensor.to(dtype).contiguous()
            for module, pair in factors.items()
            for factor, tensor in pair.items()
        }
        with atomic_folder(path) as work:
            save_file(state, work / WEIGHTS_NAME, metadata={"format": "pt"})
            write_json(work / CONFIG_NAME, config)
        return path


def task_weights(given: float | Sequence[float] | None, tasks: int, method: str) -> list[float]:
    """One lambda for each task.

    Args:
        given: One number for all, one for each, or None for the fusion's default.
        tasks: How many tasks there are.
        method: The fusion.

    Raises:
        UserError: If a list has another length, or something in it is no number.
    """
    if given is None:
        return [default_task_weight(method, tasks)] * tasks  # type: ignore[arg-type]
    values = [given] if isinstance(given, (int, float, str)) else list(given)
    try:
        weights = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UserError(f"task_weight: {given!r} is no number, expected a number or a list of {tasks}") from error
    if len(weights) == 1:
        weights *= tasks
    if len(weights) != tasks:
        raise UserError(
            f"task_weight: {given!r} has {len(weights)} numbers for {tasks} task adapters, expected one number or "
            f"{tasks}"
        )
    return weights


def torch_dtype(name: str) -> torch.dtype:
    """A torch dtype by its short name: fp32, fp16 or bf16.

    Raises:
        UserError: If the name is unknown.
    """
    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in known:
        raise UserError(f"dtype: {name!r} is unknown, expected one of {', '.join(known)}")
    return known[name]


def installed_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that a subspace depends on, as far as they are installed."""
    found = {}
    for name in ("realign-plugin", "torch", "safetensors", "peft", "transformers", "llamafactory"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _peft_fields(peft_type: str, base_model: str | None) -> dict[str, Any]:
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "auto_mapping": None,
        "revision": None,
    }


def _difference(task: Tensor, aligned: Tensor | None) -> Tensor:
    return task.float() if aligned is None else task.float() - aligned.float()


def _check_moved(task: LoraAdapter, safe: LoraAdapter | None, number: int) -> None:
    """Refuse a task vector of zeros: there would be nothing to mask."""
    if safe is None:
        if all(not pair["B"].any() for pair in task.factors.values()):
            raise UserError(
                f"task_adapters[{number}]: {task.path} changes nothing (every B is 0), expected a trained adapter; "
                "give the adapter after fine-tuning"
            )
        return
    moved = any(
        not torch.equal(pair[factor], safe.factors[module][factor])
        for module, pair in task.factors.items()
        for factor in FACTORS
    )
    if not moved:
        raise UserError(
            f"task_adapters[{number}]: {task.path} equals aligned_adapter {safe.path} (the task vector is 0), "
            "expected the adapter after fine-tuning; give that one"
        )
