"""``merge_method: safety_subspace``: a trained safety subspace merged into the base model (SOMF, arXiv 2405.09055)."""

from __future__ import annotations

from typing import Any, Final

import torch
from mergekit.merge_methods.base import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
    TensorGroup,
)
from torch import Tensor

from realign_plugin.merging.rounding import require_finite, unchanged, updated, written_dtype
from realign_plugin.merging.sources import module_of, subspace
from realign_plugin.method.masks import mask_factor
from realign_plugin.subspace.effective import mask_of
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.subspace.task_vectors import difference, keep_vectors

SHARED: Final = ParameterScope.SHARED
BY_ROWS: Final = ("task_arithmetic", "average")
BLOCKS: Final = {"cpu": 1 << 18}
"""Elements processed at once, by device: few enough for fp32 to stay in a CPU's cache."""
BLOCK: Final = 1 << 26
"""On any other device, where launching work on fewer takes longer than the work: 256 MiB of fp32."""


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
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> Tensor:
        """Merge one tensor; one that no source touched is returned as it is."""
        base: Tensor = group.base.tensor
        trained = subspace(parameters["adapter"])
        module = module_of(group.metadata.name, tuple(trained.logits))
        if module is None:
            return unchanged(group, base)
        chosen = {name: parameters[name] for name in ("mask", "threshold", "seed", "strength")}
        tasks = [entry.tensor for entry in group.non_base]
        if trained.spec.vector_space == "lora":
            factors = trained.effective_module(module, **chosen)
            product = factors["B"].to(base.device) @ factors["A"].to(base.device)
            merged = updated(base, product * trained.spec.scaling(module))
        elif trained.spec.fusion_method in BY_ROWS:
            merged = merge_by_rows(trained, module, base, tasks, **chosen)
        else:
            # On the CPU, where the draws are made: the same result on every device.
            kept = fused(trained.spec, f"{module}.W", [task.cpu() for task in tasks], base.cpu())
            update = trained.effective_module(module, **chosen, deltas={"W": kept})["W"]
            merged = updated(base, update.to(base.device))
        return require_finite(group, merged)


def fused(spec: SubspaceSpec, name: str, tasks: list[Tensor], base: Tensor) -> Tensor:
    """The task vectors that the fusion keeps of one tensor, fp32: the merged weight alone is rounded.

    mergekit keeps the tensors of its models for the whole process, so they are never written to.
    """
    return keep_vectors(spec, name, [difference(task, base) for task in tasks], torch.float32)


def merge_by_rows(
    trained: SafetySubspace,
    module: str,
    base: Tensor,
    tasks: list[Tensor],
    *,
    mask: str | None,
    threshold: float | None,
    seed: int | None,
    strength: float,
) -> Tensor:
    """Weight space, for fusions that look at one element at a time: a few rows at once."""
    spec, name, logits = trained.spec, f"{module}.W", trained.logits[module]["W"]
    chosen = mask_of(spec, name, logits, mask, threshold, seed)
    factor = mask_factor(chosen, spec.mask_rescale, strength).to(base.device)
    whole = factor.shape[0] == 1
    merged = torch.empty_like(base, dtype=written_dtype(base))
    rows = max(1, BLOCKS.get(base.device.type, BLOCK) // base.shape[1])
    for start in range(0, base.shape[0], rows):
        part = slice(start, start + rows)
        safe = base[part]
        update = fused(spec, name, [task[part] for task in tasks], safe)[0] * (factor if whole else factor[part])
        merged[part] = update.add_(safe)
    return merged
