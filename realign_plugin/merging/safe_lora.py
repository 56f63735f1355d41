"""``merge_method: safe_lora``: Safe LoRA (arXiv 2405.16833).

A module's update whose cosine with its projection on the alignment subspace is under the threshold is replaced by the
projection; all others stay.
"""

from __future__ import annotations

from typing import Any

from mergekit.merge_methods.base import BasePolicy, GroupMergeMethod, InputContract, MergeMethodSpec, TensorGroup
from torch import Tensor

from realign_plugin.merging.safe_updates import merge_deviating, shared_parameters

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
        """Merge one tensor: an update that deviates is replaced by its projection."""
        return merge_deviating(group, parameters, lambda updates, projection: projection.dense())
