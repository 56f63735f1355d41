"""``SafetySubspace``: the one object for a trained subspace, on disk and in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_folder, write_json
from realign_plugin.subspace.building import adapter_parts, model_parts
from realign_plugin.subspace.effective import effective_tensor
from realign_plugin.subspace.files import PEFT_TYPE, open_subspace, read_spec, resized_tables, tensor_name
from realign_plugin.subspace.hub import fetched, push
from realign_plugin.subspace.lora_adapters import ADAPTER_FILES, CONFIG_NAME, WEIGHTS_NAME
from realign_plugin.subspace.lora_config import LoraConfig
from realign_plugin.subspace.lora_names import MODEL_PREFIX
from realign_plugin.subspace.spec import SubspaceSpec, check_mask
from realign_plugin.subspace.tensor_files import LazyFactors, Tensors, check_finite, check_writable


class SafetySubspace:
    """A safety subspace: mask logits, aligned factors and task vectors of each target module.

    The tensors are nested as ``{module: {"A": …, "B": …}}``, in weight space as ``{module: {"W": …}}``.

    Attributes:
        spec: Modules, fusion, mask and provenance.
        base_model: Name or path of the base model, if known.
        logits: fp32, with 1 for an axis where granularity is coarser.
        aligned: theta_safe; empty where the base model is the aligned model.
        deltas: A list of task vectors, one where the fusion is linear, else one for each task.
        unchanged: Modules that were named as targets and left out, since no model changed them; not saved.
    """

    def __init__(
        self,
        spec: SubspaceSpec,
        logits: Tensors,
        aligned: Tensors,
        deltas: Sequence[Tensors],
        base_model: str | None = None,
        unchanged: Sequence[str] = (),
    ) -> None:
        """Put the parts together; nothing is copied."""
        self.spec = spec
        self.logits = logits
        self.aligned = aligned
        self.deltas = list(deltas)
        self.base_model = base_model
        self.unchanged = unchanged

    def __repr__(self) -> str:
        """Modules, fusion and mask in one line."""
        left_out = f" ({len(self.unchanged)} unchanged ones left out)" if self.unchanged else ""
        return (
            f"SafetySubspace({len(self.logits)} modules{left_out}, {len(self.spec.task_weights)} tasks, "
            f"{self.spec.fusion_method}, mask={self.spec.mask})"
        )

    @classmethod
    def from_adapters(cls, aligned: str | Path | None, tasks: Sequence[str | Path], **options: Any) -> SafetySubspace:
        """Build a subspace to be trained from LoRA adapters; see ``building.adapter_parts``."""
        return cls(*adapter_parts(aligned, tasks, **options))

    @classmethod
    def from_models(cls, base: str | Path, tasks: Sequence[str | Path], **options: Any) -> SafetySubspace:
        """Build one from full checkpoints, in weight space; see ``building.model_parts``."""
        return cls(*model_parts(base, tasks, **options))

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
            strength: Interpolates between the aligned model (0) and the realigned one (1).
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
                state[tensor_name(module, "logits", factor)] = self.logits[module][factor]
                state[tensor_name(module, "deltas", factor)] = deltas[factor]
                if self.aligned:
                    state[tensor_name(module, "aligned", factor)] = self.aligned[module][factor]
        return state

    def save(self, path: str | Path) -> Path:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, both or none.

        Args:
            path: Folder to write to.

        Returns:
            The folder.

        Raises:
            UserError: If the folder cannot be written.
        """
        config = asdict(self.spec) | _peft_fields(PEFT_TYPE, self.base_model)
        with atomic_folder(path, replaces=ADAPTER_FILES, last=CONFIG_NAME) as work:
            state = {name: tensor.detach().contiguous().cpu() for name, tensor in self.state_dict().items()}
            check_writable(state, Path(path))
            save_file(state, work / WEIGHTS_NAME, metadata={"format": "pt"})
            write_json(work / CONFIG_NAME, config)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, *, lazy: bool = False) -> SafetySubspace:
        """Read a saved subspace; no path of the machine that trained it is needed.

        Args:
            path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            lazy: Read headers only; tensors are read, and checked, each time they are asked for.

        Raises:
            UserError: If it is missing, corrupt, or not a safety subspace.
        """
        path = Path(path)
        spec, base_model = read_spec(path)
        reader, shapes = open_subspace(path, spec)
        if tables := resized_tables(reader):
            warnings.warn(
                f"{path}: {tables[0].removeprefix(MODEL_PREFIX)} of a resized vocabulary is saved with the subspace; "
                "PEFT loads it, but export, transfer and merges leave it out: give them the resized base model",
                stacklevel=2,
            )
        modules = list(shapes)
        dtypes = {"logits": torch.float32, "aligned": getattr(torch, spec.vector_dtype)}

        def read(kind: str, module: str, number: int | None = None) -> dict[str, Tensor]:
            found = {}
            for factor in spec.factors:
                name = tensor_name(module, kind, factor)
                tensor = reader.get_tensor(name) if number is None else reader.get_slice(name)[number]
                check_finite(tensor, name, path / WEIGHTS_NAME, "adapter")
                found[factor] = tensor.to(dtypes.get(kind, dtypes["aligned"]))
            return found

        logits: Tensors = LazyFactors(modules, partial(read, "logits"))
        aligned: Tensors = LazyFactors(modules, partial(read, "aligned")) if spec.has_aligned else {}
        deltas: list[Tensors] = [
            LazyFactors(modules, partial(read, "deltas", number=k)) for k in range(spec.kept_deltas)
        ]
        if not lazy:
            logits, aligned = dict(logits), dict(aligned)
            deltas = [dict(vector) for vector in deltas]
        return cls(spec, logits, aligned, deltas, base_model)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> SafetySubspace:
        """Read one from a folder, or from the Hugging Face Hub by its repository's name; see ``hub.fetched``."""
        return cls.load(fetched(name, **options))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload it to the Hugging Face Hub with a model card; see ``hub.push``."""
        return push(self, repo_id, **options)

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
            UserError: If the subspace is in weight space, the mask is unknown, the dtype cannot hold a factor, or the
                folder cannot be written.
        """
        if self.spec.vector_space != "lora":
            raise UserError(
                "export: a subspace on whole weights is not a LoRA adapter, expected one in LoRA space; merge it: "
                "`llamafactory-cli export`, or mergekit's merge_method: safety_subspace"
            )
        factors = self.effective(mask, threshold, seed)
        state = {
            f"{MODEL_PREFIX}{module}.lora_{factor}.weight": tensor.to(dtype).contiguous()
            for module, pair in factors.items()
            for factor, tensor in pair.items()
        }
        check_writable(state, Path(path))
        with atomic_folder(path, replaces=ADAPTER_FILES, last=CONFIG_NAME) as work:
            save_file(state, work / WEIGHTS_NAME, metadata={"format": "pt"})
            write_json(work / CONFIG_NAME, self._lora_config(list(factors)))
        return Path(path)

    def _lora_config(self, modules: list[str]) -> dict[str, Any]:
        linear = [module for module in modules if module not in self.spec.parameters]
        config = _peft_fields("LORA", self.base_model) | {
            "r": self.spec.r,
            "lora_alpha": self.spec.lora_alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.spec.use_rslora,
            "use_dora": False,
            "bias": "none",
            "fan_in_fan_out": self.spec.fan_in_fan_out,
            "init_lora_weights": True,
            "modules_to_save": None,
            "rank_pattern": self.spec.rank_pattern,
            "alpha_pattern": self.spec.alpha_pattern,
            "target_modules": self.spec.lora_target or linear,
        }
        if self.spec.target_parameters:
            config["target_parameters"] = self.spec.target_parameters
        if not all(map(LoraConfig.model_validate(config).adapts, modules)):  # PEFT would leave the others out
            config["target_modules"] = linear
        return config


def _peft_fields(peft_type: str, base_model: str | None) -> dict[str, Any]:
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "auto_mapping": None,
        "revision": None,
    }
