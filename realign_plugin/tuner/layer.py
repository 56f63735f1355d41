"""The parameters of one layer, frozen task vectors and the logits that mask them, and what they make of a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from realign_plugin.errors import UserError
from realign_plugin.method.draws import Draw, masked_add
from realign_plugin.method.masks import draw_seed, logits_shape
from realign_plugin.subspace.effective import effective_tensor, select_for
from realign_plugin.subspace.files import PREFIX
from realign_plugin.subspace.spec import FACTORS, check_logits
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.kept import Kept
from realign_plugin.tuner.merging_layer import MergingLayer
from realign_plugin.tuner.placement import FrozenParameters, offloading_hook, read_elsewhere
from realign_plugin.tuner.references import Reference, followed_mask, reference_value
from realign_plugin.tuner.sharding import may_be_swapped, whole, whole_shape, write_whole

ALL_FACTORS = tuple(chain.from_iterable(FACTORS.values()))
PARTS = {
    factor: tuple(f"{PREFIX}{kind}_{factor}" for kind in ("logits", "aligned", "deltas")) for factor in ALL_FACTORS
}
Parts = tuple[Tensor, Tensor | None, Tensor]


def linear_features(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear module; the shape of its weight says nothing where that is quantised."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return tuple(module.weight.shape)  # type: ignore[return-value, arg-type]  # Conv1D holds it transposed


class SafetySubspaceLayer(MergingLayer):
    """Parameters of one target module, per adapter.

    The logits are trained; aligned factors and deltas are frozen parameters (buffers would be broadcast by DDP in each
    forward and left whole by FSDP2). All carry the tuner's prefix, so that a saved adapter is self-contained.
    """

    adapter_layer_names = tuple(f"{PREFIX}logits_{factor}" for factor in ALL_FACTORS)
    frozen_names = tuple(f"{PREFIX}{kind}_{factor}" for kind in ("aligned", "deltas") for factor in ALL_FACTORS)
    other_param_names = (*frozen_names, "specs", "scaling", "noise")

    def __init__(self, base_layer: nn.Module, module_name: str) -> None:
        """Wrap a linear module.

        Args:
            base_layer: The module of the base model.
            module_name: Its full name in the model, which seeds the draws of deterministic masks.
        """
        self.base_layer = base_layer
        self.module_name = module_name
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict({}))
        for name in self.frozen_names:
            setattr(self, name, FrozenParameters({}))
        self.specs: dict[str, SafetySubspaceConfig] = {}
        self.scaling: dict[str, float] = {}
        self.noise: dict[str, float] = {}
        self.compiled = False
        self.reference: Reference | None = None
        self.kept = Kept()
        self.lasting = True  # whether tensors are the same ones in each forward pass
        self._disable_adapters = False
        self.merged_adapters = []
        self._unmerged = None
        self.in_features, self.out_features = self._features()

    def _features(self) -> tuple[int, int]:
        return linear_features(self.get_base_layer())

    def update_layer(self, adapter_name: str, spec: SafetySubspaceConfig, inference_mode: bool = False) -> None:
        """Make the parameters of one adapter: empty vectors, logits at their start; a state dict fills them.

        Args:
            adapter_name: Name of the adapter.
            spec: Its settings.
            inference_mode: Whether the logits stay frozen.
        """
        dtype = getattr(torch, spec.vector_dtype)
        shapes = {"W": (self.out_features, self.in_features)}
        if spec.vector_space == "lora":
            rows = spec.rows(self.module_name)
            shapes = {"A": (rows, self.in_features), "B": (self.out_features, rows)}
        self.kept.forget()
        for factor, shape in shapes.items():
            check_logits(spec, f"{self.module_name}.{factor}", shape)
            logits = torch.full(logits_shape(shape, spec.mask_granularity), spec.mask_init)  # type: ignore[arg-type]
            getattr(self, f"safety_subspace_logits_{factor}")[adapter_name] = nn.Parameter(logits.float())
            deltas = nn.Parameter(torch.zeros(spec.kept_deltas, *shape, dtype=dtype), requires_grad=False)
            getattr(self, f"safety_subspace_deltas_{factor}")[adapter_name] = deltas
            if spec.has_aligned:
                aligned = nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)
                getattr(self, f"safety_subspace_aligned_{factor}")[adapter_name] = aligned
        self.specs[adapter_name] = spec
        self.scaling[adapter_name] = spec.scaling(self.module_name)
        self.noise[adapter_name] = spec.mask_noise
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move the parameters to the base layer's device; their dtypes stay (PEFT would round the logits)."""
        weight, hook = self._weight(), offloading_hook(self.get_base_layer())
        if hook is not None:  # what is added to a model that is offloaded already is not
            device = torch.device(hook.execution_device)
        elif device is None and weight is not None:
            device = weight.device
        if device is None or device.type == "meta":
            return
        for name in (*self.adapter_layer_names, *self.frozen_names):
            parameters = getattr(self, name)
            if adapter_name in parameters and parameters[adapter_name].device.type != "meta":
                parameters[adapter_name].data = parameters[adapter_name].data.to(device)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters; those that were loaded for inference stay frozen, which PEFT would make trainable.

        PEFT calls this, too, where an adapter is turned on again that was off for a moment.
        """
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for name in self.adapter_layer_names:
            for adapter, logits in getattr(self, name).items():
                if self.specs[adapter].inference_mode:
                    logits.requires_grad_(False)

    def parts(self, adapter: str, factor: str) -> Parts:
        """Logits, aligned factor (or None) and deltas ``[kept, rows, columns]`` of one factor.

        Whole tensors even where they are sharded: outside forward, all processes have to call this then.
        """
        # Straight from the dictionaries: a forward pass of one token asks for them as often as it multiplies. By
        # subscript, at which ZeRO-3's dictionaries fetch what is on other processes.
        held: list[Any] = [self._modules[name] for name in PARTS[factor]]
        found: list[Any] = [p._parameters[adapter] if adapter in p._parameters else None for p in held]  # noqa: SIM401
        logits, aligned, deltas = found
        if deltas is None or deltas.is_meta:
            logits, aligned, deltas = self._parts_from_elsewhere(adapter, held)
        return whole(logits), None if aligned is None else whole(aligned), whole(deltas)

    def _parts_from_elsewhere(self, adapter: str, held: list[Any]) -> list[Any]:
        found: list[Any] = read_elsewhere(held, adapter)
        self.lasting = found[2].is_meta  # nothing was fetched
        self.kept = Kept()  # a copy's is its own
        weight = self._weight()
        if self.lasting and weight is not None and (not weight.is_meta or offloading_hook(self.get_base_layer())):
            raise UserError(
                f"adapter: {self.module_name} of {adapter!r} is on the meta device, expected tensors with numbers; "
                "load them with PeftModel.from_pretrained"
            )
        return found

    def effective(self, adapter: str, factor: str) -> Tensor:
        """The factor that forward uses, fp32; in weight space (factor ``W``) what is added to the base weight.

        While the logits are trained, each call draws a mask; the draw's seed comes from the global CPU generator,
        which gradient checkpointing restores. Otherwise it is the adapter's deterministic mask, or the reference that
        was asked for; in evaluation of logits that are trained, with the mask's gradient.
        """
        logits, aligned, deltas = self.parts(adapter, factor)
        if self.draws(logits):
            one = select_for(self.specs[adapter]) is None
            return self._draw(adapter, logits, aligned, deltas[0] if one else deltas)
        if self.follows(logits):
            spec, name = self.specs[adapter], f"{self.module_name}.{factor}"
            return effective_tensor(spec, name, logits, aligned, deltas, mask=followed_mask(spec, name, logits))
        with torch.no_grad():
            return self._fixed(adapter, factor, logits, aligned, deltas)

    def shipped(self, adapter: str, factor: str) -> Tensor:
        """The factor under the deterministic mask that is saved with the adapter, fp32, in training too."""
        name = f"{self.module_name}.{factor}"
        with torch.no_grad():
            return effective_tensor(self.specs[adapter], name, *self.parts(adapter, factor))

    def kept_effective(
        self, adapter: str, factor: str, dtype: torch.dtype = torch.float32, parts: Parts | None = None
    ) -> Tensor:
        """The same as ``effective``, in a dtype, and kept until a tensor changes where nothing is drawn or followed.

        The reference of a linear fusion is one sum, and a copy of all factors not worth keeping for it.
        """
        logits, aligned, deltas = parts or self.parts(adapter, factor)
        if self.reference is None:
            passing = logits.requires_grad and (self.training or torch.is_grad_enabled())
        else:
            passing = select_for(self.specs[adapter]) is None
        if passing:
            return self.effective(adapter, factor).to(dtype)
        sources = (aligned, deltas) if self.reference else (logits, aligned, deltas)
        return self._kept(
            adapter,
            f"{factor} {dtype}",
            sources,
            lambda: self._fixed(adapter, factor, logits, aligned, deltas).to(dtype),
        )

    def task_vector(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """The fused task vector of a whole weight, in a dtype; a copy in another one is kept for inference."""
        _, _, deltas = self.parts(adapter, "W")
        if deltas.dtype == dtype or self.training or self.reference is not None:
            return deltas[0].to(dtype)
        return self._kept(adapter, f"task vector {dtype}", (deltas,), lambda: deltas[0].to(dtype))

    def effective_scale(self, adapter: str) -> Tensor:
        """The mask of a whole weight divided by its mean, fp32: what multiplies rows or columns of the task vector.

        For granularities coarser than ``element`` and linear fusions; the task vector itself is never copied.
        """
        logits, _, _ = self.parts(adapter, "W")
        if self.draws(logits):
            return self._draw(adapter, logits, None, torch.ones_like(logits))
        spec, name = self.specs[adapter], f"{self.module_name}.W"
        ones = torch.ones_like(logits)

        def fixed(mask: Tensor | None = ones if self.reference == "init" else None) -> Tensor:
            return effective_tensor(spec, name, logits, None, ones.unsqueeze(0), mask=mask)

        if self.follows(logits):
            return fixed(followed_mask(spec, name, logits))
        return self._kept(adapter, "scale", (logits,), fixed)

    def draws(self, logits: Tensor) -> bool:
        """Whether forward draws a mask: in training, of logits that are trained, unless it is a reference."""
        return bool(self.training and logits.requires_grad and self.reference is None)

    def follows(self, logits: Tensor) -> bool:
        """Whether autograd follows the mask to logits that are trained: in evaluation with gradients, too."""
        return logits.requires_grad and self.reference is None and torch.is_grad_enabled()

    def _draw(self, adapter: str, logits: Tensor, aligned: Tensor | None, delta: Tensor) -> Tensor:
        select = select_for(self.specs[adapter]) if delta.dim() == 3 else None
        return masked_add(aligned, delta, logits, self.how_to_draw(adapter), select=select)

    def how_to_draw(self, adapter: str) -> Draw:
        """The next draw of an adapter's masks.

        Raises:
            UserError: If the adapter is offloaded: gradients would be lost.
        """
        if not self.lasting and any(map(offloading_hook, self._modules.values())):
            fault = f"{self.module_name}: its mask is offloaded by accelerate"
            raise UserError(f"{fault}, expected one that stays on its device in training; keep it off cpu and disk")
        spec = self.specs[adapter]
        estimator: Any = spec.mask_estimator
        return Draw(
            draw_seed(), spec.mask_temperature, self.noise[adapter], estimator, spec.mask_rescale, self.compiled
        )

    def _kept(
        self, adapter: str, what: str, sources: tuple[Tensor | None, ...], compute: Callable[[], Tensor]
    ) -> Tensor:
        """A value computed once for these tensors and this mask; every time where shards are swapped in."""
        spec = self.specs[adapter]
        tensors = [t for t in sources if t is not None]
        if not self.lasting or may_be_swapped(self, tensors):
            with torch.no_grad():
                return compute()
        settings = (spec.mask, spec.mask_threshold, spec.mask_seed)
        return self.kept.get((adapter, what, self.reference), settings, tensors, compute)

    def _fixed(self, adapter: str, factor: str, logits: Tensor, aligned: Tensor | None, deltas: Tensor) -> Tensor:
        spec, name = self.specs[adapter], f"{self.module_name}.{factor}"
        if self.reference is not None:
            return reference_value(self.reference, spec, name, logits, aligned, deltas)
        return effective_tensor(spec, name, logits, aligned, deltas)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter's parameters, and what was computed of them."""
        super().delete_adapter(adapter_name)
        self.kept.forget(unless=lambda key: key[0] != adapter_name)

    def fill(self, adapter: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters of one adapter.

        Args:
            adapter: Its name.
            tensors: Values by what follows the tuner's prefix, e.g. ``logits_A``.

        Raises:
            UserError: If the parameters are offloaded, or of another shape.
        """
        for name, value in tensors.items():
            parameters = getattr(self, f"{PREFIX}{name}")
            if value.shape != (shape := whole_shape(parameters[adapter])):
                raise UserError(
                    f"adapter: {self.module_name}.{name} has shape {tuple(value.shape)}, {tuple(shape)} in the model, "
                    "expected the base model that it was made for; give that one"
                )
            if offloading_hook(parameters) is not None and parameters[adapter].is_meta:
                raise UserError(
                    f"adapter: {self.module_name} of {adapter!r} is offloaded by accelerate, expected parameters that "
                    "can be written to; load the adapter before the model is dispatched"
                )
            write_whole(parameters[adapter], value)
