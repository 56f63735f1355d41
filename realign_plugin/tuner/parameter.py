"""The layer for a parameter outside linear modules, such as the weights of a layer's experts in one tensor.

PEFT's ``target_parameters``: A and B hold the factors of all experts, and the masks are of those whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import layer as lora_layer
from torch import Tensor, nn

from realign_plugin.errors import UserError
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.layer import SafetySubspaceLayer
from realign_plugin.tuner.placement import offloading_hook


class ParamWrapper(nn.Module, SafetySubspaceLayer):  # type: ignore[misc]
    """A module one of whose parameters has safety subspaces; layers of several are nested, as PEFT's are.

    It has the name of PEFT's own: by that name PEFT tells which layers it may wrap once more.
    """

    base_layer: nn.Module
    if TYPE_CHECKING:  # peft's mixin, hidden from type checkers by nn.Module.__getattr__
        active_adapters: list[str]
        get_base_layer: Callable[[], Any]

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        spec: SafetySubspaceConfig,
        module_name: str,
        parameter_name: str,
        inference_mode: bool = False,
    ) -> None:
        """Wrap the module that holds the parameter, and make the first adapter's parameters.

        Raises:
            UserError: If the adapter was trained for a parameter of another shape.
        """
        super().__init__()
        self.parameter_name = parameter_name
        SafetySubspaceLayer.__init__(self, base_layer, module_name)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, spec, inference_mode=inference_mode)

    @property
    def parameter(self) -> nn.Parameter:
        """The base model's parameter: ``[experts, …, …]``, or a matrix ``[out, in]``."""
        return getattr(self.get_base_layer(), self.parameter_name)  # type: ignore[no-any-return]

    def _features(self) -> tuple[int, int]:
        return 0, 0  # they depend on the adapter: see update_layer

    def _weight(self) -> Tensor:
        return self.parameter

    def update_layer(self, adapter_name: str, spec: SafetySubspaceConfig, inference_mode: bool = False) -> None:
        """Make the parameters of one adapter; see the base class."""
        known = spec.parameters.get(self.module_name)
        shape = tuple(self.parameter.shape)
        if known is None or not fits(known, shape):
            raise UserError(
                f"adapter: {self.module_name}.{self.parameter_name} has shape {shape}, trained for (experts, in, out) "
                f"{tuple(known or ())}, expected the base model that the adapter was trained on; give that one"
            )
        _, self.in_features, self.out_features = known
        super().update_layer(adapter_name, spec, inference_mode=inference_mode)

    def forward(self, x: Tensor, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        """The base module's output with the updates of all active adapters added to the parameter.

        Args:
            x: Input of the module.
            *args: For the base layer.
            adapter_names: Not supported.
            **kwargs: For the base layer.

        Raises:
            UserError: If ``adapter_names`` is given.
        """
        if adapter_names is not None:
            raise UserError(
                f"adapter_names: {self.module_name} is targeted by target_parameters, expected one adapter for the "
                "whole batch; run one batch for each adapter"
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        adapters = [] if self.disable_adapters or self.merged else [a for a in self.active_adapters if a in self.specs]
        with self._updated(adapters):
            return self.base_layer(x, *args, **kwargs)

    @contextmanager
    def _updated(self, adapters: list[str]) -> Iterator[None]:
        """Within the block, the parameter is the sum of itself and the adapters' updates."""
        base, name, weight = self.get_base_layer(), self.parameter_name, self.parameter
        held = base._parameters if name in base._parameters else vars(base)  # where nn.DataParallel puts its copies
        if adapters:
            self._refuse_offloaded()
            # In its place in the dictionary, so that the order of parameters stays as it is.
            held[name] = (weight.float() + sum(self._update(adapter) for adapter in adapters)).to(weight.dtype)
        try:
            yield
        finally:
            held[name] = weight

    def _update(self, adapter: str) -> Tensor:
        """The update that forward adds, fp32, with the mask that is drawn or fixed or the reference."""
        return self._product_of(adapter, self.kept_effective(adapter, "A"), self.kept_effective(adapter, "B"))

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What merging adds to the parameter, fp32, in the parameter's shape."""
        return self._product_of(adapter, self.shipped(adapter, "A"), self.shipped(adapter, "B"))

    def _merged_with(self, adapter: str) -> Tensor:
        self._refuse_offloaded()
        return super()._merged_with(adapter)

    def _refuse_offloaded(self) -> None:
        """Accelerate would put the base model's parameter in the place of the updated one, in silence."""
        if offloading_hook(self.get_base_layer()):
            raise UserError(
                f"target_parameters: {self.module_name}.{self.parameter_name} is offloaded by accelerate, expected it "
                "on a device; give a device_map that keeps it there"
            )

    def _product_of(self, adapter: str, a: Tensor, b: Tensor) -> Tensor:
        """B A of each expert, in PEFT's layout: A ``[experts * r, in]``, B ``[out, r * experts]``, scaled."""
        shape = tuple(self.parameter.shape)
        if len(shape) == 2:
            return (b @ a) * self.scaling[adapter]
        a = a.reshape(shape[0], -1, a.shape[1])
        b = b.reshape(b.shape[0], -1, shape[0])
        order = "e o i" if self._rows_are_outputs(shape) else "e i o"
        return torch.einsum(f"o r e, e r i -> {order}", b, a) * self.scaling[adapter]

    def _rows_are_outputs(self, shape: tuple[int, ...]) -> bool:
        """Whether the parameter is ``[experts, out, in]``; of a square one, as the installed PEFT takes it."""
        if shape[1] != shape[2]:
            return shape[1:] == (self.out_features, self.in_features)
        swaps = hasattr(lora_layer.ParamWrapper, "_get_in_out_features")  # newer versions look at the module
        return swaps and not getattr(self.get_base_layer(), "is_transposed", False)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The base module, with the updates of this layer and those that it wraps merged if asked for."""
        layer: nn.Module = self
        while isinstance(layer, ParamWrapper):
            if merge:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer = layer.base_layer
        return layer


def saved_name(target: nn.Module, module: str, parameter: str, targets: Sequence[str]) -> str:
    """What PEFT's state dict calls a layer once all parameters of its module have theirs.

    PEFT wraps the module once for each parameter, in the order that the module has them; the last one's layer is
    outermost and has the module's name.

    Args:
        target: The module, or layers of other parameters around it.
        module: The module's full name.
        parameter: The parameter's name in it.
        targets: PEFT's ``target_parameters``.
    """
    while isinstance(target, ParamWrapper):
        target = target.base_layer
    names = [
        name
        for name, _ in target.named_parameters(recurse=False)
        if any(f".{module}.{name}".endswith(f".{end}") for end in targets)
    ]
    return module + ".base_layer" * (len(names) - 1 - names.index(parameter))


def fits(known: list[int], shape: tuple[int, ...]) -> bool:
    """Whether an adapter's experts, inputs and outputs are those of a parameter, in either of PEFT's two orders."""
    experts, *features = known
    if len(shape) == 2:
        return experts == 1 and features[::-1] == list(shape)
    return len(shape) == 3 and experts == shape[0] and sorted(features) == sorted(shape[1:])
