"""Merging a layer's adapters into the weight of its base layer, and taking them out again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge, onload_layer
from torch import Tensor

from realign_plugin.tuner.config import SafetySubspaceConfig


class MergingLayer(BaseTunerLayer):  # type: ignore[misc]
    """What a layer does to the weight of its base layer."""

    module_name: str
    specs: dict[str, SafetySubspaceConfig]
    scaling: dict[str, float]
    merged_adapters: list[str]
    _unmerged: Tensor | None

    if TYPE_CHECKING:

        def shipped(self, adapter: str, factor: str) -> Tensor:
            """A factor under the mask that is saved with the adapter."""

    def _weight(self) -> Tensor | None:
        """What adapters are merged into; it decides on the device of their parameters, too."""
        return getattr(self.get_base_layer(), "weight", None)

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

    @torch.inference_mode(False)
    @torch.no_grad()
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

    @torch.inference_mode(False)
    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the weight back that was there before adapters were merged, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self._weight()
        assert weight is not None
        assert self._unmerged is not None
        if weight.is_meta and not self._unmerged.is_meta:  # offloaded, and not fetched by PEFT's unmerge_adapter()
            with onload_layer(self):
                return self.unmerge()
        weight.data = self._unmerged.to(weight.data)  # where the model was moved to since
        self._unmerged = None
        self.merged_adapters.clear()
