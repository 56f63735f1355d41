"""The layer: a frozen linear module, frozen task vectors, and the logits that mask them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional

from realign_plugin.effective import effective_tensor, select_for
from realign_plugin.errors import UserError
from realign_plugin.masked_linear import masked_linear
from realign_plugin.masks import Draw, draw_seed, logits_shape, masked_add
from realign_plugin.spec import FACTORS, SubspaceSpec
from realign_plugin.subspace_files import PREFIX
from realign_plugin.tuner.sharding import may_be_swapped, whole, write_whole

Reference = Literal["init", "aligned"]
ALL_FACTORS = tuple(chain.from_iterable(FACTORS.values()))
PARTS = {
    factor: tuple(f"{PREFIX}{kind}_{factor}" for kind in ("logits", "aligned", "deltas")) for factor in ALL_FACTORS
}
Parts = tuple[Tensor, Tensor | None, Tensor]


class SafetySubspaceLayer(BaseTunerLayer):  # type: ignore[misc]
    """Parameters of one target module, per adapter.

    The logits are trained; aligned factors and deltas are frozen parameters (buffers would be broadcast by DDP in each
    forward and left whole by FSDP2). All carry the tuner's prefix, so that a saved adapter is self-contained.
    """

    adapter_layer_names = tuple(f"{PREFIX}logits_{factor}" for factor in ALL_FACTORS)
    frozen_names = tuple(f"{PREFIX}{kind}_{factor}" for kind in ("aligned", "deltas") for factor in ALL_FACTORS)
    other_param_names = (*frozen_names, "specs", "scaling")

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
        self._cache: dict[tuple[str, str, str | None], tuple[tuple[Any, ...], Tensor]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        linear = self.get_base_layer()
        self.in_features, self.out_features = linear.in_features, linear.out_features

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
            rank = spec.rank(self.module_name)
            shapes = {"A": (rank, self.in_features), "B": (self.out_features, rank)}
        for factor, shape in shapes.items():
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
        weight = getattr(self.get_base_layer(), "weight", None)
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
        was asked for, kept until a tensor changes; the reference of a linear fusion is one sum, and a copy of all
        factors not worth keeping for it.
        """
        return self._effective(adapter, factor, self.parts(adapter, factor))

    def _effective(self, adapter: str, factor: str, parts: Parts) -> Tensor:
        logits, aligned, deltas = parts
        select = select_for(self.specs[adapter])
        if self._draws(logits):
            return self._draw(adapter, logits, aligned, deltas[0] if select is None else deltas)
        if self.reference is not None and select is None:
            with torch.no_grad():
                return self._fixed(adapter, factor, logits, aligned, deltas)
        sources = (aligned, deltas) if self.reference else (logits, aligned, deltas)
        return self._kept(adapter, factor, sources, lambda: self._fixed(adapter, factor, logits, aligned, deltas))

    def effective_scale(self, adapter: str) -> Tensor:
        """The mask of a whole weight divided by its mean, fp32: what multiplies rows or columns of the task vector.

        For granularities coarser than ``element`` and linear fusions; the task vector itself is never copied.
        """
        logits, _, _ = self.parts(adapter, "W")
        if self._draws(logits):
            return self._draw(adapter, logits, None, torch.ones_like(logits))
        spec = self.specs[adapter]
        ones = torch.ones_like(logits)

        def fixed() -> Tensor:
            mask = ones if self.reference == "init" else None
            name = f"{self.module_name}.W"
            return effective_tensor(spec, name, logits, None, ones.unsqueeze(0), mask=mask)

        return self._kept(adapter, "scale", (logits,), fixed)

    def _draws(self, logits: Tensor) -> bool:
        return bool(self.training and logits.requires_grad and self.reference is None)

    def _draw(self, adapter: str, logits: Tensor, aligned: Tensor | None, delta: Tensor) -> Tensor:
        select = select_for(self.specs[adapter]) if delta.dim() == 3 else None
        return masked_add(aligned, delta, logits, self._how_to_draw(adapter), select=select)

    def _how_to_draw(self, adapter: str) -> Draw:
        spec = self.specs[adapter]
        estimator: Any = spec.mask_estimator
        return Draw(
            draw_seed(), spec.mask_temperature, self.noise[adapter], estimator, spec.mask_rescale, self.compiled
        )

    def _kept(
        self, adapter: str, what: str, sources: tuple[Tensor | None, ...], compute: Callable[[], Tensor]
    ) -> Tensor:
        """A value computed once for these tensors and this mask; every time where versions do not tell of changes."""
        spec = self.specs[adapter]
        tensors = [t for t in sources if t is not None]
        if may_be_swapped(self, tensors):
            with torch.no_grad():
                return compute()
        versions = [(t.data_ptr(), t._version) for t in tensors]
        state = (spec.mask, spec.mask_threshold, spec.mask_seed, versions)
        key = (adapter, what, self.reference)
        known = self._cache.get(key)
        if known is not None and known[0] == state:
            return known[1]
        with torch.no_grad():
            value = compute()
        self._cache[key] = (state, value)
        return value

    def _fixed(self, adapter: str, factor: str, logits: Tensor, aligned: Tensor | None, deltas: Tensor) -> Tensor:
        if self.reference == "aligned":
            return torch.zeros_like(deltas[0], dtype=torch.float32) if aligned is None else aligned.float()
        if self.reference == "init" and select_for(self.specs[adapter]) is None:  # the mask of all ones: a plain sum
            return deltas[0].float() if aligned is None else deltas[0].float() + aligned.float()
        mask = torch.ones_like(logits) if self.reference == "init" else None
        return effective_tensor(
            self.specs[adapter], f"{self.module_name}.{factor}", logits, aligned, deltas, mask=mask
        )

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What merging adds to the weight, fp32 ``[out, in]``: scaling * B @ A, or the masked task vector itself."""
        if self.specs[adapter].vector_space == "weight":
            with torch.no_grad():
                return self._fixed(adapter, "W", *self.parts(adapter, "W"))
        product: Tensor = self.effective(adapter, "B") @ self.effective(adapter, "A")
        return product * self.scaling[adapter]

    def fill(self, adapter: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters of one adapter.

        Args:
            adapter: Its name.
            tensors: Values by what follows the tuner's prefix, e.g. ``logits_A``.
        """
        for name, value in tensors.items():
            write_whole(getattr(self, f"{PREFIX}{name}")[adapter], value)


class SafetySubspaceLinear(nn.Module, SafetySubspaceLayer):  # type: ignore[misc]
    """A linear module with safety subspaces."""

    base_layer: nn.Module
    if TYPE_CHECKING:  # peft's mixin, hidden from type checkers by nn.Module.__getattr__
        active_adapters: list[str]
        get_base_layer: Callable[[], Any]
        _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        spec: SubspaceSpec,
        module_name: str,
        inference_mode: bool = False,
    ) -> None:
        """Wrap a linear module and make the first adapter's parameters."""
        super().__init__()
        SafetySubspaceLayer.__init__(self, base_layer, module_name)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, spec, inference_mode=inference_mode)

    def train(self, mode: bool = True) -> SafetySubspaceLinear:
        """Switch between training and inference; what was kept of the logits is forgotten.

        DeepSpeed writes updated parameters behind their version counters.
        """
        self._cache = {key: value for key, value in self._cache.items() if key[2] is not None}
        super().train(mode)
        return self

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output + the update of each active adapter: scaling * B A x, or the masked task vector times x."""
        if kwargs.pop("adapter_names", None) is not None:
            raise UserError(
                "adapter_names: mixed batches are unknown to safety_subspace, expected one adapter a batch"
            )
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            plain: Tensor = self.base_layer(x, *args, **kwargs)
            return plain
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return result
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter not in self.specs:
                continue
            if self.specs[adapter].vector_space == "lora":
                low = self._product(adapter, "A", x)
                # The thin tensor is scaled, not the result.
                result = result + self._product(adapter, "B", low * self.scaling[adapter])
            elif self.reference != "aligned":  # in weight space the aligned model is the base model
                result = result + self._weight_update(adapter, x)
        return result.to(dtype)

    def _product(self, adapter: str, factor: str, x: Tensor) -> Tensor:
        """One factor times the input; while a mask is drawn, nothing of the factor's size is kept for backward.

        The selection of TIES is worth keeping: it costs more than a mask.
        """
        spec = self.specs[adapter]
        parts = logits, aligned, deltas = self.parts(adapter, factor)
        if self._draws(logits) and select_for(spec) is None:
            dtype = x.dtype if factor == "W" else torch.float32
            return masked_linear(x, logits, aligned, deltas, self._how_to_draw(adapter), dtype)
        effective = self._effective(adapter, factor, parts)
        if factor == "W":
            return functional.linear(x, effective.to(x.dtype))
        return functional.linear(self._cast_input_dtype(x, effective.dtype), effective)

    def _weight_update(self, adapter: str, x: Tensor) -> Tensor:
        """The masked task vector of the whole weight, times the input."""
        spec = self.specs[adapter]
        if spec.mask_granularity == "element" or select_for(spec) is not None:
            return self._product(adapter, "W", x)
        scale = self.effective_scale(adapter).to(x.dtype)
        _, _, deltas = self.parts(adapter, "W")
        delta = deltas[0].to(x.dtype)
        if spec.mask_granularity == "column":
            return functional.linear(x * scale[0], delta)
        return functional.linear(x, delta) * scale[:, 0]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the effective update to the base weight, rounded once to its dtype.

        Args:
            safe_merge: Refuse a result that is not finite.
            adapter_names: Adapters to merge; None takes the active ones.

        Raises:
            UserError: If the base weight is quantised.
            ValueError: If ``safe_merge`` finds numbers that are not finite.
        """
        linear = self.get_base_layer()
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.specs:
                continue
            refuse_quantised(linear, self.module_name, self.specs[adapter].vector_space)
            merged = (linear.weight.data.float() + self.get_delta_weight(adapter)).to(linear.weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"merging {adapter!r} into {self.module_name} gives NaN or infinite numbers")
            linear.weight.data = merged
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take merged updates away again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self.get_base_layer().weight
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            weight.data = (weight.data.float() - self.get_delta_weight(adapter)).to(weight.dtype)

    def __repr__(self) -> str:
        """Torch's own text with the method in front."""
        return "safety_subspace." + super().__repr__()


def is_quantised(linear: nn.Module) -> bool:
    """Whether a linear module's weight is stored quantised (bitsandbytes, and others that hold no float weight)."""
    weight = getattr(linear, "weight", None)
    return weight is None or not weight.dtype.is_floating_point or hasattr(weight, "quant_state")


def refuse_quantised(linear: nn.Module, name: str, vector_space: str = "lora") -> None:
    """Refuse to merge into a quantised weight.

    Raises:
        UserError: If the weight is quantised.
    """
    if is_quantised(linear):
        way_out = ", or use `realign export` and serve the LoRA adapter" if vector_space == "lora" else ""
        raise UserError(
            f"merge: {name} is a quantised {type(linear).__name__}, expected fp32, fp16 or bf16 weights; "
            f"load the base model without quantization_bit{way_out}"
        )
