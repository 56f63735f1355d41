"""The names of fusions, masks, granularities and estimators; imports no torch, so that command lines can list them."""

from __future__ import annotations

from typing import Final, Literal, get_args

FusionMethod = Literal["task_arithmetic", "average", "ties", "dare"]
Granularity = Literal["element", "row", "column", "module"]
MaskKind = Literal["soft", "binary", "sampled", "relaxed"]
Estimator = Literal["relaxed", "straight_through"]

FUSION_METHODS: Final[tuple[str, ...]] = get_args(FusionMethod)
GRANULARITIES: Final[tuple[str, ...]] = get_args(Granularity)
MASK_KINDS: Final[tuple[str, ...]] = get_args(MaskKind)
ESTIMATORS: Final[tuple[str, ...]] = get_args(Estimator)
