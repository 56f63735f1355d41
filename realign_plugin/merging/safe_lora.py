"""``merge_method: safe_lora``: Safe LoRA (arXiv 2405.16833).

A module's update whose cosine with its projection on the alignment subspace is under the threshold is replaced by the
projection; all others stay.
"""

from __future__ import annotations

from typing import Any

from mergekit.merge_methods.base import BasePolicy, GroupMergeMethod, InputContract, MergeMethodSpec, TensorGroup
from torch import Tensor

from realign_plugin.merging.alignment import cosine, project
from realign_plugin.merging.reporting import ModuleReport, add
from realign_plugin.merging.rounding import require_finite, updated
from realign_plugin.merging.safe_updates import as_fine_tuned, find_updates, shared_parameters

THRESHOLD = 0.35


class SafeLoraMerge(GroupMergeMethod):  # type: ignore[misc]
    """Projects updates that leave the alignment subspace (Safe LoRA, equations 2 and 3)."""

    spec = MergeMethodSpec(
        name="safe_lora",
        pretty_name="Safe LoRA",
        reference_url="https://arxiv.org/abs/2405.16833",
        parameters=shared_parameters(THRESHOLD),
        contract=InputContract(base=BasePolicy.REQUIRED),
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> Tensor:
        """Merge one tensor; what is no matrix of a module stays as it was fine-tuned."""
        base: Tensor = group.base.tensor
        found = find_updates(group, parameters)
        if found is None:
            return as_fine_tuned(group, parameters)
        threshold, tuned = parameters["threshold"], found.tuned
        if found.alignment is None or found.alignment.norm() == 0:
            add(ModuleReport(found.module, None, threshold, False, "no alignment vector"))
        else:
            projection = project(found.alignment, tuned)
            angle = cosine(tuned, projection)
            add(ModuleReport(found.module, angle, threshold, angle < threshold))
            tuned = projection if angle < threshold else tuned
        update = tuned.dense()
        whole = update if found.aligned is None else update + found.aligned.dense()
        return require_finite(group, updated(base, whole))
