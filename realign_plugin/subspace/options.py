"""The options of a safety subspace that a user sets, each written once: default, help, allowed values.

The training arguments, their checks and the flags of ``realign`` are derived from these fields. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from realign_plugin.errors import check_choice, check_range
from realign_plugin.method.choices import ESTIMATORS, FUSION_METHODS, GRANULARITIES, MASK_KINDS


@dataclass
class SubspaceOptions:
    """How task vectors are fused and masked.

    The metadata of a field: ``help``; ``choices`` or ``range`` (and ``low_open``), which :func:`check_option` checks;
    ``unset`` for an option that is None until a training chooses it: what it chooses, where that is not the default.
    """

    fusion_method: str = field(
        default="task_arithmetic", metadata={"help": "How several task vectors are fused.", "choices": FUSION_METHODS}
    )
    ties_density: float = field(
        default=0.2, metadata={"help": "Share of elements that TIES keeps.", "range": (0.0, 1.0), "low_open": True}
    )
    dare_drop_rate: float = field(
        default=0.2, metadata={"help": "Share of elements that DARE drops.", "range": (0.0, 0.99)}
    )
    fusion_seed: int = field(default=0, metadata={"help": "Seed of DARE's drop."})
    mask_granularity: str = field(
        default="element",
        metadata={
            "help": "What one mask logit decides on.",
            "choices": GRANULARITIES,
            "unset": "element for adapters, row for whole weights",
        },
    )
    mask_init: float = field(
        default=0.0, metadata={"help": "Value of every mask logit at the start.", "range": (-50.0, 50.0)}
    )
    mask_temperature: float = field(
        default=0.5,
        metadata={
            "help": "Temperature of the relaxed mask.",
            "range": (1e-3, 100.0),
            "unset": "0.5 for mask_dpo, 1 for safety_distill",
        },
    )
    mask_rescale: bool = field(default=True, metadata={"help": "Whether or not to divide the mask by its mean."})
    mask_estimator: str = field(
        default="relaxed",
        metadata={
            "help": "Mask while training: relaxed, or 0/1 forward with the relaxed gradient backward.",
            "choices": ESTIMATORS,
        },
    )
    mask_noise: float = field(
        default=1.0,
        metadata={
            "help": "Scale of the mask's noise at the first step.",
            "range": (0.0, 100.0),
            "unset": "1 for mask_dpo, 0 for safety_distill",
        },
    )
    mask_noise_end: float | None = field(
        default=None,
        metadata={
            "help": "Scale of the mask's noise at the last step, linear between.",
            "range": (0.0, 100.0),
            "unset": "no change",
        },
    )
    mask_keep_weight: float = field(
        default=0.0, metadata={"help": "Weight of the penalty on what the mask removes.", "range": (0.0, 1e6)}
    )
    mask: str = field(
        default="soft",
        metadata={
            "help": "Mask at evaluation, export and chat.",
            "choices": MASK_KINDS,
            "unset": "binary for straight_through, else soft",
        },
    )
    mask_threshold: float = field(
        default=0.5,
        metadata={"help": "Threshold of the binary mask.", "range": (0.0, 1.0), "low_open": True, "unset": None},
    )
    mask_seed: int = field(default=0, metadata={"help": "Seed of the sampled and the relaxed mask.", "unset": None})


OPTIONS: Final = {option.name: option for option in fields(SubspaceOptions)}
"""The options by name."""
FUSION_OPTIONS: Final = tuple(name for name in OPTIONS if not name.startswith("mask"))
"""Names of the options of the fusion alone, which apply without a mask."""
HELP: Final[dict[str, str]] = {name: option.metadata["help"] for name, option in OPTIONS.items()}
"""The help of each option."""


def check_option(name: str, value: Any) -> None:
    """Refuse a value that is not among an option's choices, or is outside its range.

    Args:
        name: Name of the option.
        value: The value given.

    Raises:
        UserError: With the value and what was expected.
    """
    known = OPTIONS[name].metadata
    if "choices" in known:
        check_choice(name, value, known["choices"])
    if "range" in known and value is not None:
        check_range(name, value, *known["range"], low_open=known.get("low_open", False))


def listed(choices: Sequence[str]) -> str:
    """Choices in a sentence: ``a, b or c``."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
