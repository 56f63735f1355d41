"""The layer: a frozen linear module with safety subspaces on it; its forward pass, and merging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from realign_plugin.errors import UserError
from realign_plugin.method.masked_linear import masked_linear
from realign_plugin.subspace.effective import select_for
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.layer import SafetySubspaceLayer


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
        spec: SafetySubspaceConfig,
        module_name: str,
        inference_mode: bool = False,
    ) -> None:
        """Wrap a linear module and make the first adapter's parameters."""
        super().__init__()
        SafetySubspaceLayer.__init__(self, base_layer, module_name)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, spec, inference_mode=inference_mode)

    def train(self, mode: bool = True) -> SafetySubspaceLinear:
        """Switch between training and inference; in training nothing computed of the logits takes up memory."""
        if mode:
            self.kept.forget(unless=lambda key: key[2] is not None)
        super().train(mode)
        return self

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """Base output + the update of each active adapter: scaling * B A x, or the masked task vector times x.

        Args:
            x: Input ``[..., in]``.
            *args: For the base layer.
            adapter_names: One adapter for each row of the batch, ``__base__`` for none; in place of the active ones.
            **kwargs: For the base layer.

        Raises:
            UserError: If ``adapter_names`` does not fit the batch, or adapters are merged.
        """
        if adapter_names is not None and len(adapter_names) != len(x):
            raise UserError(
                f"adapter_names: {len(adapter_names)} names for a batch of {len(x)}, expected one for each row; "
                "correct the list"
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        if adapter_names is not None:
            return self._by_row(x, result, adapter_names)
        if self.merged:
            return result
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter in self.specs:
                result = self._updated(adapter, x, result)
        return result.to(dtype)

    def _by_row(self, x: Tensor, result: Tensor, names: Sequence[str]) -> Tensor:
        if self.merged:
            raise UserError(
                f"adapter_names: {', '.join(self.merged_adapters)} is merged into the weights of every row, expected "
                "no merged adapter; call unmerge_adapter() first"
            )
        for adapter in dict.fromkeys(names):
            if adapter in self.specs:
                rows = torch.tensor([i for i, name in enumerate(names) if name == adapter], device=x.device)
                found = self._updated(adapter, x[rows], result[rows])
                result = result.index_copy(0, rows, found.to(result.dtype))
        return result

    def _updated(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """A result with one adapter's update added."""
        if self.specs[adapter].vector_space == "lora":
            low = self._product(adapter, "A", x)
            # The thin tensor is scaled, not the result.
            return result + self._product(adapter, "B", low * self.scaling[adapter])
        if self.reference == "aligned":  # in weight space the aligned model is the base model
            return result
        return result + self._weight_update(adapter, x)

    def _product(self, adapter: str, factor: str, x: Tensor) -> Tensor:
        """One factor times the input; while a mask is drawn, nothing of the factor's size is kept for backward.

        The selection of TIES is worth keeping: it costs more than a mask.
        """
        logits, aligned, deltas = parts = self.parts(adapter, factor)
        dtype = x.dtype if factor == "W" else torch.float32
        if self.draws(logits) and select_for(self.specs[adapter]) is None:
            return masked_linear(x, logits, aligned, deltas, self.how_to_draw(adapter), dtype)
        if factor == "W":
            return functional.linear(x, self.kept_effective(adapter, factor, _multiplied_in(x), parts))
        return functional.linear(self._cast_input_dtype(x, dtype), self.kept_effective(adapter, factor, parts=parts))

    def _weight_update(self, adapter: str, x: Tensor) -> Tensor:
        """The masked task vector of the whole weight, times the input."""
        spec = self.specs[adapter]
        if spec.mask_granularity == "element" or select_for(spec) is not None:
            return self._product(adapter, "W", x)
        scale = self.effective_scale(adapter).to(x.dtype)
        delta = self.task_vector(adapter, _multiplied_in(x))
        if spec.mask_granularity == "column":
            return functional.linear(x * scale[0], delta)
        return functional.linear(x, delta) * scale[:, 0]

    def _merged_with(self, adapter: str) -> Tensor:
        refuse_quantised(self.get_base_layer(), self.module_name, self.specs[adapter].vector_space)
        delta = self.get_delta_weight(adapter)
        return delta if isinstance(self.get_base_layer(), nn.Linear) else delta.T

    def __repr__(self) -> str:
        """Torch's own text with the method in front."""
        return "safety_subspace." + super().__repr__()


def _multiplied_in(x: Tensor) -> torch.dtype:
    """The dtype that a product with an input is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def is_linear_module(module: nn.Module | None) -> bool:
    """Whether a module is linear: torch's, or transformers' Conv1D, which holds its weight transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


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
