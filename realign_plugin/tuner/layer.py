"""The parameters of one layer, frozen task vectors and the logits that mask them, and what they make of a weight."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from realign_plugin.method.draws import Draw, masked_add
from realign_plugin.method.masks import draw_seed, logits_shape
from realign_plugin.subspace.effective import effective_tensor, select_for
from realign_plugin.subspace.files import PREFIX
from realign_plugin.subspace.spec import FACTORS, SubspaceSpec, check_logits
from realign_plugin.tuner.kept import Kept
from realign_plugin.tuner.references import Reference, reference_value
from realign_plugin.tuner.sharding import may_be_swapped, whole, write_whole

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


class SafetySubspaceLayer(BaseTunerLayer):  # type: ignore[misc]
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
        for name in (*self.adapter_layer_names, *self.frozen_names):
            setattr(self, name, nn.ParameterDict({}))
        self.specs: dict[str, SubspaceSpec] = {}
        self.scaling: dict[str, float] = {}
        self.noise: dict[str, float] = {}
        self.compiled = False
        self.reference: Reference | None = None
        self.kept = Kept()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._unmerged: Tensor | None = None
        self.in_features, self.out_features = self._features()

    def _features(self) -> tuple[int, int]:
        return linear_features(self.get_base_layer())

    def _weight(self) -> Tensor | None:
        """What decides on the device of an adapter's parameters."""
        return getattr(self.get_base_layer(), "weight", None)

    def update_layer(self, adapter_name: str, spec: SubspaceSpec, inference_mode: bool = False) -> None:
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
        weight = self._weight()
        device = weight.device if device is None and weight is not None else device
        if device is None or device.type == "meta":
            return
        for name in (*self.adapter_layer_names, *self.frozen_names):
            parameters = getattr(self, name)
            if adapter_name in parameters and parameters[adapter_name].device.type != "meta":
                parameters[adapter_name].data = parameters[adapter_name].data.to(device)

    def parts(self, adapter: str, factor: str) -> Parts:
        """Logits, aligned factor (or None) and deltas ``[kept, rows, columns]`` of one factor.

        Whole tensors even where they are sharded: outside forward, all processes have to call this then.
        """
        # Straight from the dictionaries: a forward pass of one token asks for them as often as it multiplies.
        logits, aligned, deltas = (self._modules[name]._parameters for name in PARTS[factor])  # type: ignore[union-attr]
        return (
            whole(logits[adapter]),  # type: ignore[arg-type]
            whole(aligned[adapter]) if adapter in aligned else None,  # type: ignore[arg-type]
            whole(deltas[adapter]),  # type: ignore[arg-type]
        )

    def effective(self, adapter: str, factor: str) -> Tensor:
        """The factor that forward uses, fp32; in weight space (factor ``W``) what is added to the base weight.

        While the logits are trained, each call draws a mask; the draw's seed comes from the global CPU generator,
        which gradient checkpointing restores. Otherwise it is the adapter's deterministic mask, or the reference that
        was asked for.
        """
        logits, aligned, deltas = self.parts(adapter, factor)
        if self.draws(logits):
            one = select_for(self.specs[adapter]) is None
            return self._draw(adapter, logits, aligned, deltas[0] if one else deltas)
        with torch.no_grad():
            return self._fixed(adapter, factor, logits, aligned, deltas)

    def shipped(self, adapter: str, factor: str) -> Tensor:
        """The factor under the deterministic mask that is saved with the adapter, fp32, in training too."""
        name = f"{self.module_name}.{factor}"
        with torch.no_grad():
            return effective_tensor(self.specs[adapter], name, *self.parts(adapter, factor))

    def kept_effective(self, adapter: str, factor: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same as ``effective``, in a dtype, and kept until a tensor changes where nothing is drawn.

        The reference of a linear fusion is one sum, and a copy of all factors not worth keeping for it.
        """
        logits, aligned, deltas = self.parts(adapter, factor)
        if self.draws(logits) or (self.reference is not None and select_for(self.specs[adapter]) is None):
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
        spec = self.specs[adapter]
        ones = torch.ones_like(logits)

        def fixed() -> Tensor:
            mask = ones if self.reference == "init" else None
            name = f"{self.module_name}.W"
            return effective_tensor(spec, name, logits, None, ones.unsqueeze(0), mask=mask)

        return self._kept(adapter, "scale", (logits,), fixed)

    def draws(self, logits: Tensor) -> bool:
        """Whether forward draws a mask: in training, of logits that are trained, unless it is a reference."""
        return bool(self.training and logits.requires_grad and self.reference is None)

    def _draw(self, adapter: str, logits: Tensor, aligned: Tensor | None, delta: Tensor) -> Tensor:
        select = select_for(self.specs[adapter]) if delta.dim() == 3 else None
        return masked_add(aligned, delta, logits, self.how_to_draw(adapter), select=select)

    def how_to_draw(self, adapter: str) -> Draw:
        """The next draw of an adapter's masks."""
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
        if may_be_swapped(self, tensors):
            with torch.no_grad():
                return compute()
        settings = (spec.mask, spec.mask_threshold, spec.mask_seed)
        return self.kept.get((adapter, what, self.reference), settings, tensors, compute)

    def _fixed(self, adapter: str, factor: str, logits: Tensor, aligned: Tensor | None, deltas: Tensor) -> Tensor:
        spec, name = self.specs[adapter], f"{self.module_name}.{factor}"
        if self.reference is not None:
            return reference_value(self.reference, spec, name, logits, aligned, deltas)
        return effective_tensor(spec, name, logits, aligned, deltas)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What merging adds to the weight, fp32 ``[out, in]``: scaling * B @ A, or the masked task vector itself.

        It is always made with the mask that is saved with the adapter: in training, and within ``reference``, too.
        """
        if self.specs[adapter].vector_space == "weight":
            return self.shipped(adapter, "W")
        return (self.shipped(adapter, "B") @ self.shipped(adapter, "A")) * self.scaling[adapter]

    def _merged_with(self, adapter: str) -> Tensor:
        """What merging adds to the weight, in its shape; raises where it cannot be merged into."""
        return self.get_delta_weight(adapter)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add updates to the weight, under the masks that are saved with the adapters, rounded once to its dtype.

        The weight that was there is held until ``unmerge`` puts it back: no subtraction gives it again in bf16, and
        masks may have changed by then.

        Args:
            safe_merge: Refuse a result that is not finite.
            adapter_names: Adapters to merge; None takes the active ones.

        Raises:
            UserError: If the weight is quantised.
            ValueError: If ``safe_merge`` finds numbers that are not finite.
        """
        adapters = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.specs]
        if not adapters:
            return
        updates = [self._merged_with(adapter) for adapter in adapters]
        weight = self._weight()
        assert weight is not None
        before = weight.data
        merged = (before.float() + sum(updates)).to(before.dtype)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"merging {', '.join(adapters)} into {self.module_name} gives NaN or infinite numbers")
        weight.data = merged
        if not self.merged_adapters:
            self._unmerged = before
        self.merged_adapters += adapters

    def unmerge(self) -> None:
        """Put the weight back that was there before adapters were merged, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self._weight()
        assert weight is not None
        assert self._unmerged is not None
        weight.data = self._unmerged.to(weight.data)  # where the model was moved to since
        self._unmerged = None
        self.merged_adapters.clear()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter's parameters, and what was computed of them."""
        super().delete_adapter(adapter_name)
        self.kept.forget(unless=lambda key: key[0] != adapter_name)

    def fill(self, adapter: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters of one adapter.

        Args:
            adapter: Its name.
            tensors: Values by what follows the tuner's prefix, e.g. ``logits_A``.
        """
        for name, value in tensors.items():
            write_whole(getattr(self, f"{PREFIX}{name}")[adapter], value)
