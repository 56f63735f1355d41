"""``merge_method: safe_merge``: SafeMERGE (arXiv 2503.17239).

Only modules whose update deviates from the alignment subspace are merged with the safe model; all others stay as they
were fine-tuned.
"""

from __future__ import annotations

from typing import Any

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

from realign_plugin.merging.alignment import Update
from realign_plugin.merging.safe_updates import Updates, merge_deviating, shared_parameters

THRESHOLD = 0.35
WEIGHT = 0.5


class SafeMergeMerge(GroupMergeMethod):  # type: ignore[misc]
    """Merges deviating modules with the safe model: weight * tuned + (1 - weight) * safe (SafeMERGE, section 3)."""

    spec = MergeMethodSpec(
        name="safe_merge",
        pretty_name="SafeMERGE",
        reference_url="https://arxiv.org/abs/2503.17239",
        parameters=shared_parameters(
            THRESHOLD,
            ParameterSpec("safe_adapter", str | None, ParameterScope.SHARED, default=None),
            ParameterSpec("weight", float, ParameterScope.SHARED, default=WEIGHT),
        ),
        contract=InputContract(base=BasePolicy.REQUIRED),
    )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> Tensor:
        """Merge one tensor: an update that deviates is averaged with the safe model's."""
        weight: float = parameters["weight"]

        def averaged(updates: Updates, projection: Update) -> Tensor:
            update = weight * updates.tuned.dense()
            return update if updates.safe is None else update + (1.0 - weight) * updates.safe.dense()

        return merge_deviating(group, parameters, averaged)
