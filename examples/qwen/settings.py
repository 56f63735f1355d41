"""What bench.py trains and measures: one setting for each row of docs/results.md's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from trial import METHODS

Side = Literal["masks", "lora", "sft", "dpo", "mask_dpo", "mask_dpo_paper", "merge", "transfer"]
STEPS: Final = 80
SIDES: Final[Mapping[str, Mapping[str, Any]]] = {
    "masks": {"stage": "safety_distill", "finetuning_type": "safety_subspace"},
    "lora": {"stage": "safety_distill", "finetuning_type": "lora"},
    "sft": METHODS["lora_sft"],
    "dpo": METHODS["lora_dpo"],
    "mask_dpo": METHODS["mask_dpo"],
    "mask_dpo_paper": METHODS["mask_dpo_paper"],
}
PAIRED: Final = ("dpo", "mask_dpo", "mask_dpo_paper")


@dataclass(frozen=True)
class Start:
    """A fine-tuned model.

    Attributes:
        tasks: Its adapters; several are fused by task arithmetic.
        skill: The rows that its skill is trained and measured on.
    """

    tasks: tuple[str, ...]
    skill: str


STARTS: Final[Mapping[str, Start]] = {
    "mixture": Start(("mixture",), "mixture"),
    "maths": Start(("maths",), "maths"),
    "general": Start(("general",), "general"),
    "code": Start(("code",), "code"),
    "fused": Start(("maths", "general", "code"), "all"),
    "mixture-1": Start(("mixture-1",), "mixture"),
}


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        side: What is trained; ``merge`` and ``transfer`` train nothing.
        options: LLaMA-Factory's options, over the side's own.
        best: Whether the options of the side's best tuned setting apply beneath these.
        start: The fine-tuned model that is repaired.
        adapter: Setting whose adapter is trained further, or whose mask is transferred; ``base`` for a new adapter.
        rows: Safety prompts, and rows of the skill, that are trained on; None for all.
        kinds: Which safety prompts.
        refused: Whether only prompts that the aligned model refuses are trained on, without rows of the skill.
        weights: Of the adapters that ``merge`` adds up: starts' and settings' names.
        test: Whether the test prompts are measured too.
        seed: Of the training and its data.
    """

    side: Side
    options: Mapping[str, Any] = field(default_factory=dict)
    best: bool = False
    start: str = "mixture"
    adapter: str | None = None
    rows: int | None = None
    kinds: tuple[str, ...] = ("harmful", "benign")
    refused: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    test: bool = False
    seed: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Settings and tasks whose adapters it uses."""
        return (*self.weights, *([self.adapter] if self.adapter not in (None, "base") else []))  # type: ignore[list-item]


def both(name: str, **given: Any) -> dict[str, Setting]:
    """A setting of each side, with the options that were tuned for it."""
    return {f"{side}-{name}": Setting(side, best=True, **given) for side in ("masks", "lora")}  # type: ignore[arg-type]


def _tuned(name: str, side: Side, rate: float, **options: Any) -> dict[str, Setting]:
    return {name: Setting(side, {"learning_rate": rate, **options})}


NOISY: Final = {
    "mask_estimator": "straight_through", "mask_noise": 1.0, "mask_noise_end": 0.0, "mask_temperature": 0.5,
}  # fmt: skip
"""Noise that falls to 0, and a 0/1 mask."""
SOFT: Final = {"mask_noise": 0.0, "mask_temperature": 0.5}
TUNING: Final[Mapping[str, Setting]] = {
    **_tuned("masks-0.1", "masks", 0.1, **NOISY),
    **_tuned("lora-2e-4", "lora", 2e-4),
    **_tuned("masks-0.3", "masks", 0.3, **NOISY),
    **_tuned("lora-5e-4", "lora", 5e-4),
    **_tuned("masks-1", "masks", 1.0, **NOISY),
    **_tuned("lora-1e-3", "lora", 1e-3),
    **_tuned("masks-0.3-soft", "masks", 0.3, **SOFT),
    **_tuned("lora-1e-4", "lora", 1e-4),
    **_tuned("masks-1-soft", "masks", 1.0, **SOFT),
    **_tuned("lora-2e-4-reverse", "lora", 2e-4, distill_divergence="reverse"),
    **_tuned("masks-0.3-reverse", "masks", 0.3, distill_divergence="reverse", **NOISY),
    **_tuned("lora-2e-4-skill-2", "lora", 2e-4, distill_skill_weight=2.0),
}
"""As many trials of one side as of the other."""

UP: Final = ",".join(f"model.layers.{layer}.mlp.up_proj" for layer in range(8, 16))
RANK_ONE: Final = {"create_new_adapter": True, "lora_rank": 1, "lora_target": UP, "learning_rate": 1e-3}
SMALL: Final[Mapping[str, Setting]] = {
    "one-shot": Setting(
        "sft", {"max_steps": 10, "per_device_train_batch_size": 1}, rows=1, kinds=("harmful",), refused=True, test=True
    ),
    "rank-1-up": Setting("sft", RANK_ONE, kinds=("harmful",), refused=True, test=True),
    "interpolation": Setting("merge", weights={"mixture": 0.5}, test=True),
}
"""One Shot (arXiv 2601.01887): one refusal. Rank 1 on the up-projections of the middle third (arXiv 2507.17075)."""

FURTHER: Final = {"dataset": "further", "max_steps": 40, "learning_rate": 5e-4}
QUESTIONS: Final[Mapping[str, Setting]] = {
    **both("240-steps", options={"max_steps": 3 * STEPS}),
    **both("16-rows", rows=16),
    **both("64-rows", rows=64),
    **both("no-skill", options={"distill_skill_weight": 0.0}),
    **both("fused", start="fused"),
    **both("benign", kinds=("benign",)),
    **both("harmful", kinds=("harmful",)),
    "masks-then-lora": Setting("lora", best=True, adapter="masks-seed-0"),
    **both("maths", start="maths"),
    **both("general", start="general"),
    **both("code", start="code"),
    "masks-moved": Setting("transfer", start="mixture-1", adapter="masks-seed-0"),
    "lora-moved": Setting("merge", start="mixture-1", weights={"mixture-1": 1.0, "lora-seed-0": 1.0, "mixture": -1.0}),
    "masks-tuned-further": Setting("sft", FURTHER, adapter="masks-seed-0"),
    "lora-tuned-further": Setting("sft", FURTHER, adapter="lora-seed-0"),
    "aligned-tuned-further": Setting("sft", FURTHER, adapter="base"),
}


def baselines(seed: int) -> dict[str, Setting]:
    """Other repairs, on the data of ``realign repair`` with one seed."""
    return {f"{side}-seed-{seed}": Setting(side, seed=seed, test=True) for side in ("sft", *PAIRED)}  # type: ignore[arg-type]


def settings(seeds: Sequence[int]) -> dict[str, Setting]:
    """All rows, the most telling first."""
    first, *others = seeds
    found = dict(TUNING) | baselines(first) | SMALL
    for seed in seeds:
        found |= both(f"seed-{seed}", seed=seed, test=True)
    found |= QUESTIONS
    for seed in others:
        found |= baselines(seed)
    return found
