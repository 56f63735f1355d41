"""``merge_method: safety_subspace``: a trained safety subspace merged into the base model (SOMF, arXiv 2405.09055)."""

from __future__ import annotations

from typing import Any, Final

from mergekit.merge_methods.base import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    OptionalTensorPolicy,
    ParameterScope,
    ParameterSpec,
    TensorGroup,
)
from torch import Tensor

from realign_plugin.building import keep_vectors
from realign_plugin.merging.rounding import updated
from realign_plugin.merging.sources import module_of, subspace

SHARED: Final = ParameterScope.SHARED


class SafetySubspaceMerge(GroupMergeMethod):  # type: ignore[misc]
    """Adds the masked and fused task vectors to the base model's weights.

    In LoRA space they come from the adapter alone; in weight space from the models, masked by the adapter's logits.
    """

    spec = MergeMethodSpec(
        name="safety_subspace",
        pretty_name="Safety subspace (SOMF)",
        reference_url="https://arxiv.org/abs/2405.09055",
        parameters=(
            ParameterSpec("adapter", str, SHARED),
            ParameterSpec("mask", str | None, SHARED, default=None),
            ParameterSpec("threshold", float | None, SHARED, default=None),
            ParameterSpec("seed", int | None, SHARED, default=None),
            ParameterSpec("strength", float, SHARED, default=1.0),
            ParameterSpec("check_base", bool, SHARED, default=True),
        ),
        contract=InputContract(base=BasePolicy.REQUIRED),
        optional_tensor_policy=OptionalTensorPolicy.PASSTHROUGH_BASE_SINGLETON,
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> Tensor:
        """Merge one tensor; one that no source touched is returned as it is."""
        base: Tensor = group.base.tensor
        trained = subspace(parameters["adapter"])
        module = module_of(group.metadata.name, tuple(trained.logits))
        if module is None:
            return base
        chosen = {name: parameters[name] for name in ("mask", "threshold", "seed", "strength")}
        if trained.spec.vector_space == "lora":
            factors = trained.effective_module(module, **chosen)
            product = factors["B"].to(base.device) @ factors["A"].to(base.device)
            return updated(base, product * trained.spec.scaling(module))
        start = base.float()
        vectors = [entry.tensor.float() - start for entry in group.non_base]
        kept = keep_vectors(trained.spec, f"{module}.W", vectors)
        return updated(base, trained.effective_module(module, **chosen, deltas={"W": kept})["W"])
