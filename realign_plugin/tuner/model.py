"""The tuner: puts safety-subspace layers into a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from realign_plugin.building import replace_spec
from realign_plugin.errors import UserError
from realign_plugin.lora_adapters import Factors
from realign_plugin.lora_names import MODEL_PREFIX, natural_key
from realign_plugin.spec import check_mask
from realign_plugin.subspace import SafetySubspace
from realign_plugin.subspace_files import PREFIX
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.layer import Reference, SafetySubspaceLayer, SafetySubspaceLinear
from realign_plugin.tuner.sharding import is_sharded, whole


class SafetySubspaceModel(BaseTuner):  # type: ignore[misc]
    """A model whose task vectors are masked by a safety subspace (SOMF, arXiv 2405.09055)."""

    prefix: str = PREFIX
    tuner_layer_cls = SafetySubspaceLayer
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the layers in; ``target_modules`` keeps full names, which PEFT shortens where there are 20 or more."""
        config = self.peft_config[adapter_name]
        targets = list(config.target_modules or ())
        names = [f".{name}" for name, _ in model.named_modules()]
        if lost := [target for target in targets if not any(name.endswith(f".{target}") for name in names)]:
            raise UserError(
                f"adapter: target module {lost[0]} is not in {type(model).__name__}, expected the base model that the "
                "adapter was trained on; give that one"
            )
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        found = [layer.module_name for layer in self.layers() if adapter_name in layer.specs]
        config.target_modules = targets if set(targets) == set(found) else sorted(found, key=natural_key)

    def _create_and_replace(
        self,
        peft_config: SafetySubspaceConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, SafetySubspaceLayer):
            target.update_layer(adapter_name, peft_config, inference_mode=peft_config.inference_mode)
            return
        linear = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not isinstance(linear, nn.Linear):
            raise UserError(
                f"target_modules: {current_key} is a {type(linear).__name__}, expected torch.nn.Linear; "
                "train adapters that target linear modules only"
            )
        layer = SafetySubspaceLinear(
            target, adapter_name, peft_config, current_key, inference_mode=peft_config.inference_mode
        )
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        """Freeze all but logits: frozen task vectors carry the prefix too."""
        for name, parameter in model.named_parameters():
            if f"{PREFIX}logits_" not in name:
                parameter.requires_grad = False

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        """Refuse an adapter's tensors that are not in the model, or of another shape there: PEFT would skip them."""
        own = {f"{prefix}{name}": parameter for name, parameter in self.named_parameters() if PREFIX in name}
        for name, value in state_dict.items():
            if PREFIX not in name or not name.startswith(prefix):
                continue
            if name not in own:
                raise UserError(
                    f"adapter: {name} is not in {type(self.model).__name__}, expected the base model that the adapter "
                    "was trained on; give that one"
                )
            if not is_sharded(own[name]) and value.shape != own[name].shape:
                raise UserError(
                    f"adapter: {name} has shape {tuple(value.shape)}, {tuple(own[name].shape)} in the model, expected "
                    "the base model that the adapter was trained on; give that one"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leave dtypes alone: logits are fp32 already, and frozen bf16 vectors must stay as they were trained."""

    def layers(self) -> Iterator[SafetySubspaceLayer]:
        """All safety-subspace layers of the model."""
        for module in self.model.modules():
            if isinstance(module, SafetySubspaceLayer):
                yield module

    def logits(self, adapter_name: str = "default") -> list[Tensor]:
        """All logits of an adapter, A and B (or W) of each module in turn; whole even where they are sharded."""
        return [
            whole(getattr(layer, name)[adapter_name])
            for layer in self.layers()
            for name in layer.adapter_layer_names
            if adapter_name in getattr(layer, name)
        ]

    def whole_state_dict(self, adapter_name: str = "default", keep: bool = True) -> dict[str, Tensor]:
        """What is saved of an adapter, on the CPU, gathered from all processes where it is sharded.

        Args:
            adapter_name: The adapter.
            keep: Whether this process wants the tensors; all have to call this, one has to hold them.

        Returns:
            Tensors by their names in the PEFT model, in their own dtypes; empty unless ``keep``.
        """
        state: dict[str, Tensor] = {}
        for layer in self.layers():
            if adapter_name not in layer.specs:
                continue
            spec = layer.specs[adapter_name]
            for factor in spec.factors:
                for kind, tensor in zip(
                    ("logits", "aligned", "deltas"), layer.parts(adapter_name, factor), strict=True
                ):
                    if tensor is None or not keep:
                        continue
                    # FSDP2 raises a bf16 model to fp32 for mixed precision.
                    dtype = torch.float32 if kind == "logits" else getattr(torch, spec.vector_dtype)
                    name = f"{MODEL_PREFIX}{layer.module_name}.{PREFIX}{kind}_{factor}.{adapter_name}"
                    state[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        return state

    def load_whole(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Read a saved adapter into parameters that may be sharded, each process its part.

        Args:
            folder: Where it was saved; every process reads it.
            adapter_name: The adapter.

        Raises:
            UserError: If it is missing or corrupt, or has other modules.
        """
        self.fill(SafetySubspace.load(folder, lazy=True), adapter_name)

    def fill(self, subspace: SafetySubspace, adapter_name: str = "default") -> None:
        """Copy a subspace into the parameters of an adapter, which may be sharded.

        Args:
            subspace: The same on every process.
            adapter_name: The adapter.

        Raises:
            UserError: If it has other modules than the adapter.
        """
        layers = {layer.module_name: layer for layer in self.layers() if adapter_name in layer.specs}
        if other := sorted(set(layers) ^ set(subspace.logits), key=natural_key):
            raise UserError(
                f"adapter: {other[0]} is a target module of {'the model' if other[0] in layers else 'the adapter'} "
                "alone, expected the same modules; give the adapter of this run"
            )
        for module, layer in layers.items():
            stem = f"{MODEL_PREFIX}{module}.{PREFIX}"
            state = subspace.state_dict([module])
            layer.fill(adapter_name, {name.removeprefix(stem): tensor for name, tensor in state.items()})

    def set_noise(self, scale: float, adapter_name: str = "default") -> None:
        """Set the scale of the logistic noise that training draws with.

        Args:
            scale: 1 is the paper's; 0 takes the noise away.
            adapter_name: The adapter.
        """
        for layer in self.layers():
            layer.noise[adapter_name] = scale

    def compile_masks(self) -> None:
        """Draw with fused kernels of torch's compiler from now on: the same numbers but for rounding."""
        for layer in self.layers():
            layer.compiled = True

    def set_mask(
        self, mask: str, threshold: float | None = None, seed: int | None = None, adapter_name: str = "default"
    ) -> None:
        """Choose the mask that inference, merging and evaluation use; it is saved with the adapter.

        Args:
            mask: ``soft``, ``binary``, ``sampled`` or ``relaxed``.
            threshold: Threshold of ``binary``; None leaves it.
            seed: Seed of ``sampled`` and ``relaxed``; None leaves it.
            adapter_name: The adapter.

        Raises:
            UserError: If the mask is unknown, or the threshold out of range.
        """
        config: SafetySubspaceConfig = self.peft_config[adapter_name]
        check_mask(mask, config.mask_threshold if threshold is None else threshold)
        for spec in [config, *(layer.specs[adapter_name] for layer in self.layers() if adapter_name in layer.specs)]:
            spec.mask = mask
            spec.mask_threshold = spec.mask_threshold if threshold is None else threshold
            spec.mask_seed = spec.mask_seed if seed is None else seed

    @contextmanager
    def reference(self, kind: Reference) -> Iterator[None]:
        """Within the block, forward is a DPO reference: no second model, no draw.

        Args:
            kind: ``init``: the mask of all ones, i.e. the plain fusion; ``aligned``: the mask of all zeros.
        """
        layers = list(self.layers())
        for layer in layers:
            layer.reference = kind
        try:
            yield
        finally:
            for layer in layers:
                layer.reference = None


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

    In weight space, ``lora_target: all`` was resolved from the names of tensors; those that are no linear module of
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
                f"{len(left_out)} weights are no linear module of {type(model).__name__} ({left_out[0]}, …): they "
                "stay as in the base model",
                stacklevel=3,
            )
            logits = {name: subspace.logits[name] for name in linear}
            spec = replace_spec(spec, target_modules=linear)
            subspace = SafetySubspace(spec, logits, subspace.aligned, subspace.deltas, subspace.base_model)
    for name in subspace.logits:
        module = modules.get(name)
        if module is None:
            raise UserError(
                f"{option}: target module {name} is not in {type(model).__name__}, expected sources of this base "
                "model; check model_name_or_path"
            )
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"{option}: target module {name} is a {type(module).__name__}, expected torch.nn.Linear; "
                "mask linear modules only"
            )
        if spec.vector_space == "weight":
            continue  # shapes were compared with the base model's headers
        pair = subspace.deltas[0][name]
        found = (pair["B"].shape[0], pair["A"].shape[1])
        if found != (module.out_features, module.in_features):
            raise UserError(
                f"{option}: {name} was trained for a weight of shape {tuple(found)}, the base model has "
                f"{(module.out_features, module.in_features)}, expected adapters of this base model; check "
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
