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

from realign_plugin.merging.alignment import cosine, project
from realign_plugin.merging.reporting import ModuleReport, add
from realign_plugin.merging.rounding import require_finite, updated
from realign_plugin.merging.safe_updates import as_fine_tuned, find_updates, shared_parameters

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
        """Merge one tensor; what is no matrix of a module stays as it was fine-tuned."""
        base: Tensor = group.base.tensor
        found = find_updates(group, parameters)
        if found is None:
            return as_fine_tuned(group, parameters)
        threshold, weight = parameters["threshold"], parameters["weight"]
        update = found.tuned.dense()
        if found.alignment is None or found.alignment.norm() == 0:
            add(ModuleReport(found.module, None, threshold, False, "no alignment vector"))
        else:
            angle = cosine(found.tuned, project(found.alignment, found.tuned))
            deviates = angle < threshold
            add(ModuleReport(found.module, angle, threshold, deviates))
            if deviates:
                update = weight * update
                if found.safe is not None:
                    update = update + (1.0 - weight) * found.safe.dense()
        whole = update if found.aligned is None else update + found.aligned.dense()
        return require_finite(group, updated(base, whole))
