"""``SafetySubspace``: the one object for a trained subspace, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realign_plugin.atomic import atomic_folder, write_json
from realign_plugin.errors import UserError
from realign_plugin.fusion import is_linear, ties_select
from realign_plugin.lora_adapters import (
    CONFIG_NAME,
    MODEL_PREFIX,
    WEIGHTS_NAME,
    check_finite,
    natural_key,
    read_adapter_config,
)
from realign_plugin.masks import apply_mask, inference_mask, tensor_seed
from realign_plugin.spec import SubspaceSpec, check_mask

PEFT_TYPE: Final = "SAFETY_SUBSPACE"
PREFIX: Final = "safety_subspace_"


class LazyFactors(Mapping[str, Mapping[str, Tensor]]):
    """Tensors of each module, read or computed when they are asked for and not kept."""

    def __init__(self, modules: Iterable[str], read: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Name the modules and the function that gives the tensors of one."""
        self._modules = dict.fromkeys(modules)
        self._read = read

    def __getitem__(self, module: str) -> Mapping[str, Tensor]:
        """Read the tensors of one module."""
        if module not in self._modules:
            raise KeyError(module)
        return self._read(module)

    def __iter__(self) -> Iterator[str]:
        """Go through the modules."""
        return iter(self._modules)

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self._modules)


Tensors = Mapping[str, Mapping[str, Tensor]]
"""``{module: {"A": [r, in], "B": [out, r]}}`` in LoRA space, ``{module: {"W": [out, in]}}`` in weight space."""


def select_for(spec: SubspaceSpec) -> Any:
    """The selection that a fusion makes of masked task vectors, for ``masks.masked_add``; None where it is linear."""
    if is_linear(spec.fusion_method):  # type: ignore[arg-type]
        return None
    return partial(ties_select, weights=spec.task_weights, density=spec.ties_density)


def mask_of(
    spec: SubspaceSpec, name: str, logits: Tensor, kind: str | None, threshold: float | None, seed: int | None
) -> Tensor:
    """The deterministic mask of one tensor; what is None is the spec's."""
    return inference_mask(
        logits,
        kind or spec.mask,  # type: ignore[arg-type]
        threshold=spec.mask_threshold if threshold is None else threshold,
        seed=tensor_seed(spec.mask_seed if seed is None else seed, name),
        temperature=spec.mask_temperature,
    )


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
    strength: float = 1.0,
) -> Tensor:
    """One effective tensor: theta_safe + strength * fuse(lambda * (m * delta)) / mean(m) (SOMF, equation 4).

    Args:
        spec: Fusion and mask settings.
        name: The tensor's name, ``module.A``, ``module.B`` or ``module.W``; with the seed it seeds the draw.
        logits: Logits of the tensor.
        aligned: theta_safe ``[rows, columns]``, or None for zeros.
        deltas: Kept task vectors, ``[kept, rows, columns]``.
        mask: Kind of the mask, or a mask itself; None takes the spec's.
        threshold: Threshold of the binary mask; None takes the spec's.
        seed: Seed of a drawn mask; None takes the spec's.
        strength: The dial between the aligned model (0) and the realigned one (1).

    Returns:
        fp32 tensor ``[rows, columns]``.
    """
    if not isinstance(mask, Tensor):
        mask = mask_of(spec, name, logits, mask, threshold, seed)
    select = select_for(spec)
    delta = deltas[0] if select is None else select(deltas, mask)
    return apply_mask(aligned, delta, mask, rescale=spec.mask_rescale, strength=strength)


class SafetySubspace:
    """A safety subspace: mask logits, aligned factors and task vectors of each target module.

    The tensors are nested as ``{module: {"A": …, "B": …}}``, in weight space as ``{module: {"W": …}}``.

    Attributes:
        spec: Modules, fusion, mask and provenance.
        base_model: Name or path of the base model, if known.
        logits: fp32, with 1 for an axis where granularity is coarser.
        aligned: theta_safe; empty where the base model is the aligned model.
        deltas: A list of task vectors, one where the fusion is linear, else one for each task.
    """

    def __init__(
        self,
        spec: SubspaceSpec,
        logits: Tensors,
        aligned: Tensors,
        deltas: Sequence[Tensors],
        base_model: str | None = None,
    ) -> None:
        """Put the parts together; nothing is copied."""
        self.spec = spec
        self.logits = logits
        self.aligned = aligned
        self.deltas = list(deltas)
        self.base_model = base_model

    def __repr__(self) -> str:
        """Modules, fusion and mask in one line."""
        return (
            f"SafetySubspace({len(self.logits)} modules, {len(self.spec.task_weights)} tasks, "
            f"{self.spec.fusion_method}, mask={self.spec.mask})"
        )

    @classmethod
    def from_adapters(cls, aligned: str | Path | None, tasks: Sequence[str | Path], **options: Any) -> SafetySubspace:
        """Build a subspace to be trained from LoRA adapters: :func:`realign_plugin.building.from_adapters`."""
        from realign_plugin.building import from_adapters

        return from_adapters(aligned, tasks, **options)

    @classmethod
    def from_models(cls, base: str | Path, tasks: Sequence[str | Path], **options: Any) -> SafetySubspace:
        """Build one from full checkpoints, in weight space: :func:`realign_plugin.building.from_models`."""
        from realign_plugin.building import from_models

        return from_models(base, tasks, **options)

    def effective(
        self, mask: str | None = None, threshold: float | None = None, seed: int | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """What forward uses: theta_safe + fuse(lambda * (m * delta)) / mean(m).

        Args:
            mask: ``soft``, ``binary``, ``sampled`` or ``relaxed``; None takes the subspace's own.
            threshold: Threshold of ``binary``.
            seed: Seed of ``sampled`` and ``relaxed``.

        Returns:
            LoRA space: the factors, ``{module: {"A": [r, in], "B": [out, r]}}``. Weight space: what is added to the
            weight of the base model, which is the aligned one, ``{module: {"W": [out, in]}}``. fp32.

        Raises:
            UserError: If the mask is unknown or the threshold out of range.
        """
        check_mask(mask or self.spec.mask, self.spec.mask_threshold if threshold is None else threshold)
        return {module: self.effective_module(module, mask, threshold, seed) for module in self.logits}

    def effective_module(
        self,
        module: str,
        mask: str | None = None,
        threshold: float | None = None,
        seed: int | None = None,
        strength: float = 1.0,
        deltas: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What forward uses of one module; see :meth:`effective`.

        Args:
            module: Full name of the module.
            mask: Kind of the mask; None takes the subspace's own.
            threshold: Threshold of ``binary``.
            seed: Seed of ``sampled`` and ``relaxed``.
            strength: The dial between the aligned model (0) and the realigned one (1).
            deltas: Task vectors ``{factor: [kept, rows, columns]}`` to use in place of the subspace's own.
        """
        logits = self.logits[module]
        aligned = self.aligned[module] if self.aligned else {}
        vectors = self.stacked_deltas(module) if deltas is None else deltas
        return {
            factor: effective_tensor(
                self.spec,
                f"{module}.{factor}",
                logits[factor],
                aligned.get(factor),
                vectors[factor],
                mask=mask,
                threshold=threshold,
                seed=seed,
                strength=strength,
            )
            for factor in self.spec.factors
        }

    def stacked_deltas(self, module: str) -> dict[str, Tensor]:
        """The kept task vectors of one module, ``{factor: [kept, rows, columns]}``."""
        kept = [vector[module] for vector in self.deltas]
        return {factor: torch.stack([vector[factor] for vector in kept]) for factor in self.spec.factors}

    def state_dict(self, modules: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The tensors under the names they have on disk and in ``peft.get_peft_model_state_dict``.

        Args:
            modules: Full names of modules; None takes all.
        """
        state: dict[str, Tensor] = {}
        for module in self.logits if modules is None else modules:
            deltas = self.stacked_deltas(module)
            for factor in self.spec.factors:
                stem = f"{MODEL_PREFIX}{module}.{PREFIX}"
                state[f"{stem}logits_{factor}"] = self.logits[module][factor]
                state[f"{stem}deltas_{factor}"] = deltas[factor]
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
    def load(cls, path: str | Path, *, lazy: bool = False) -> SafetySubspace:
        """Read a saved subspace; no path of the machine that trained it is needed.

        Args:
            path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            lazy: Read headers only; tensors are read, and checked, each time they are asked for.

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
        try:
            reader = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"adapter: {file} is corrupt ({error}), expected a safetensors file; copy the folder again"
            ) from error
        modules = _check_tensors(spec, file, reader)

        def read(kind: str, module: str, number: int | None = None) -> dict[str, Tensor]:
            found = {}
            for factor in spec.factors:
                name = f"{MODEL_PREFIX}{module}.{PREFIX}{kind}_{factor}"
                whole: Any = reader  # untyped
                tensor = whole.get_tensor(name) if number is None else whole.get_slice(name)[number]
                check_finite(tensor, name, file, "adapter")
                found[factor] = tensor
            return found

        logits: Tensors = LazyFactors(modules, partial(read, "logits"))
        aligned: Tensors = LazyFactors(modules, partial(read, "aligned")) if spec.has_aligned else {}
        deltas: list[Tensors] = [
            LazyFactors(modules, partial(read, "deltas", number=k)) for k in range(spec.kept_deltas)
        ]
        if not lazy:
            logits, aligned = dict(logits), dict(aligned)
            deltas = [dict(vector) for vector in deltas]
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
            UserError: If the subspace is in weight space, the mask is unknown, or the folder cannot be written.
        """
        path = Path(path)
        if self.spec.vector_space != "lora":
            raise UserError(
                "export: a subspace on whole weights is no LoRA adapter, expected one in LoRA space; merge it: "
                "`llamafactory-cli export`, or mergekit's merge_method: safety_subspace"
            )
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


def torch_dtype(name: str) -> torch.dtype:
    """A torch dtype by its short name: fp32, fp16 or bf16.

    Raises:
        UserError: If the name is unknown.
    """
    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in known:
        raise UserError(f"dtype: {name!r} is unknown, expected one of {', '.join(known)}")
    return known[name]


def tensor_shapes(path: str | Path, spec: SubspaceSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of what a saved subspace masks, from the header of its file alone.

    Args:
        path: Folder of the subspace.
        spec: Its description.

    Returns:
        ``{module: {factor: (rows, columns)}}``.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    with safe_open(Path(path) / WEIGHTS_NAME, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118 - safe_open is no mapping
            stem, _, part = name.rpartition(f".{PREFIX}")
            kind, _, factor = part.partition("_")
            if kind == "deltas":
                module = stem.removeprefix(MODEL_PREFIX)
                shapes.setdefault(module, {})[factor] = tuple(reader.get_slice(name).get_shape()[1:])
    return dict(sorted(shapes.items(), key=lambda item: natural_key(item[0])))


def _check_tensors(spec: SubspaceSpec, file: Path, reader: Any) -> list[str]:
    """The modules that a subspace's file holds, in natural order, once every tensor is known to be there."""
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


def _peft_fields(peft_type: str, base_model: str | None) -> dict[str, Any]:
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "auto_mapping": None,
        "revision": None,
    }
