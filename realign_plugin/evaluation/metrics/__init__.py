"""What an evaluation counts: rates, differences and agreement, each with its 95 % interval."""

from realign_plugin.evaluation.metrics.rates import (
    INCOHERENT,
    NotAvailable,
    Rate,
    describe,
    difference,
    judged_share,
    pooled,
    preference_score,
    share,
    wilson,
)

__all__ = [
    "INCOHERENT",
    "NotAvailable",
    "Rate",
    "describe",
    "difference",
    "judged_share",
    "pooled",
    "preference_score",
    "share",
    "wilson",
]
