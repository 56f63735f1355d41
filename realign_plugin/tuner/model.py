"""The tuner: puts safety-subspace layers into a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from realign_plugin.errors import UserError, check_choice
from realign_plugin.subspace.files import PREFIX
from realign_plugin.subspace.lora_names import MODEL_PREFIX, natural_key
from realign_plugin.subspace.spec import check_mask
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.kept import contents_checked
from realign_plugin.tuner.layer import SafetySubspaceLayer
from realign_plugin.tuner.linear import SafetySubspaceLinear, is_linear_module
from realign_plugin.tuner.loading import check_state_dict, check_untied_head
from realign_plugin.tuner.parameter import ParamWrapper, saved_name
from realign_plugin.tuner.placement import offloading_hook
from realign_plugin.tuner.references import Reference, switched
from realign_plugin.tuner.sharding import whole

BASE: Final = "__base__"
"""PEFT's name for no adapter at all, in a batch of several."""


class SafetySubspaceModel(BaseTuner):  # type: ignore[misc]
    """A model whose task vectors are masked by a safety subspace (SOMF, arXiv 2405.09055)."""

    prefix: str = PREFIX
    tuner_layer_cls = SafetySubspaceLayer
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the layers in; ``target_modules`` keeps full names, which PEFT shortens where there are 20 or more."""
        config = self.peft_config[adapter_name]
        targets = list(config.target_modules or ())
        config.check_model(model)
        if config.target_parameters and len(self.peft_config) > 1:
            fault = f"target_parameters: adapter {adapter_name!r} is added to another, expected the only adapter"
            raise UserError(f"{fault} of its model, as PEFT allows no other; load it into a model of its own")
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = [layer for layer in self.layers() if adapter_name in layer.specs]
        found = [layer.module_name for layer in layers if not isinstance(layer, ParamWrapper)]
        config.target_modules = targets if set(targets) == set(found) else sorted(found, key=natural_key)

    def _create_and_replace(
        self,
        peft_config: SafetySubspaceConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **_: Any,
    ) -> None:
        if parameter_name is not None:
            self._wrap_parameter(peft_config, adapter_name, target, target_name, parent, current_key)
            return
        if isinstance(target, SafetySubspaceLayer):
            target.update_layer(adapter_name, peft_config, inference_mode=peft_config.inference_mode)
            return
        linear = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not is_linear_module(linear):
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

    def _wrap_parameter(
        self,
        config: SafetySubspaceConfig,
        adapter_name: str,
        target: nn.Module,
        name: str,
        parent: nn.Module,
        key: str,
    ) -> None:
        """One of PEFT's ``target_parameters``: a layer around the module, or around those of its other parameters."""
        module, _, parameter = key.rpartition(".")
        if isinstance(target, BaseTunerLayer) and not isinstance(target, ParamWrapper):
            raise UserError(
                f"target_parameters: {key} is in a {type(target).__name__} of another adapter, expected the base "
                "model's own module; merge that adapter first"
            )
        module = saved_name(target, module, parameter, config.target_parameters or ())
        layer = ParamWrapper(target, adapter_name, config, module, parameter, config.inference_mode)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        base = child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
        if isinstance(child, ParamWrapper) or offloading_hook(base):  # PEFT would look for a weight, or move to meta
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        """Freeze all but logits: frozen task vectors carry the prefix too."""
        for name, parameter in model.named_parameters():
            if f"{PREFIX}logits_" not in name:
                parameter.requires_grad = False

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        """Refuse what PEFT would skip."""
        check_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leave dtypes alone: logits are fp32 already, and frozen bf16 vectors must stay as they were trained."""

    def _check_merge_allowed(self) -> None:
        """Refuse what merging would change besides the target modules; PEFT only warns."""
        check_untied_head(self.model, self.layers())
        super()._check_merge_allowed()

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
        self, mask: str, threshold: float | None = None, seed: int | None = None, adapter_name: str | None = None
    ) -> None:
        """Choose the mask that inference, merging and evaluation use; it is saved with the adapter.

        Args:
            mask: ``soft``, ``binary``, ``sampled`` or ``relaxed``.
            threshold: Threshold of ``binary``; None leaves it.
            seed: Seed of ``sampled`` and ``relaxed``; None leaves it.
            adapter_name: The adapter; None: the active one.

        Raises:
            UserError: If the mask is unknown, or the threshold out of range.
        """
        adapter_name = adapter_name or self.active_adapters[0]
        config: SafetySubspaceConfig = self.peft_config[adapter_name]
        check_mask(mask, config.mask_threshold if threshold is None else threshold)
        if any(adapter_name in layer.merged_adapters for layer in self.layers()):
            warnings.warn(
                f"{adapter_name} is merged with its earlier mask, which stays in the weights until unmerge_adapter()",
                stacklevel=2,
            )
        for spec in [config, *(layer.specs[adapter_name] for layer in self.layers() if adapter_name in layer.specs)]:
            spec.mask = mask
            spec.mask_threshold = spec.mask_threshold if threshold is None else threshold
            spec.mask_seed = spec.mask_seed if seed is None else seed

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """What PEFT puts around one call of the model: ``forward``, or ``generate`` with all its tokens."""
        names: Sequence[str] | None = kwargs.get("adapter_names")
        with ExitStack() as call:
            if not self.training:
                call.enter_context(contents_checked([layer.kept for layer in self.layers()]))
            if names is not None:
                self._check_rows(names)
                repeated = [name for name in names for _ in range(_copies_of_a_row(kwargs))]

                def with_names(_: nn.Module, inputs: Any, options: Any) -> Any:
                    # An encoder sees each row once, whatever the number of beams.
                    rows = names if inputs and len(inputs[0]) == len(names) else repeated
                    return inputs, options | {"adapter_names": rows}

                for layer in self.layers():
                    call.callback(layer.register_forward_pre_hook(with_names, with_kwargs=True).remove)
            yield

    def _check_rows(self, names: Sequence[str]) -> None:
        if self.training:
            raise UserError(
                "adapter_names: given to a model in training mode, expected inference; call model.eval(), or train "
                "one adapter at a time"
            )
        for name in names:
            if name != BASE:
                check_choice("adapter_names", name, [*self.peft_config, BASE])

    def reference(self, kind: Reference) -> AbstractContextManager[None]:
        """Within the block, forward is a DPO reference: no second model, no draw.

        Args:
            kind: ``init``: the mask of all ones, i.e. the plain fusion; ``aligned``: the mask of all zeros.
        """
        return switched(self.layers(), kind)


def _copies_of_a_row(options: Mapping[str, Any]) -> int:
    """How often ``generate`` repeats each row of a batch: once a beam, or once an answer."""
    found = 1
    for name in ("num_beams", "num_return_sequences"):
        value = options.get(name, getattr(options.get("generation_config"), name, None))
        found = max(found, value) if isinstance(value, int) else found
    return found
