"""The methods that a study knows by name, and the training recipes that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.lab.study.config.models import Method
from realign_plugin.lab.study.config.sections import Arguments

MASKS: Final = ("soft", "binary", "sampled", "relaxed")
MASKED: Final = ("mask_dpo", "safety_distill")
"""Kinds of methods that train masks, which are exported."""
LORA: Final = "safety_distill_lora"
TRAININGS: Final = (*MASKED, LORA, "sft", "dpo")


@dataclass(frozen=True)
class Merge:
    """A method without training: one of the files in ``mergekit_configs/``, or a plain fusion of one task.

    Attributes:
        label: What the tables call it.
        file: The file for full checkpoints, without its suffix; ``FILE_lora`` is the one for adapters.
        strength: What a strength is, for messages; empty: the method has none.
        default: The strength where none is given.
        unaligned: Whether the model before alignment is needed.
        lowest: Smallest strength that is allowed.
        highest: Largest.
    """

    label: str
    file: str
    strength: str = ""
    default: float | None = None
    unaligned: bool = False
    lowest: float = 0.0
    highest: float = 2.0


MERGES: Final[dict[str, Merge]] = {
    "resta": Merge("RESTA", "resta", "weight of the safety vector", 0.5, unaligned=True),
    "resta_dare": Merge("RESTA with DARE", "resta_dare", "weight of the safety vector", 0.5, unaligned=True),
    "interpolation": Merge("interpolation", "interpolation", "weight of the aligned model", 0.5),
    "safe_lora": Merge("Safe LoRA", "safe_lora", "threshold of the cosine", 0.35, True, -1.0, 1.0),
    "safe_merge": Merge("SafeMERGE", "safe_merge", "weight of the fine-tuned update", 0.5, True, 0.0, 1.0),
    "ties": Merge("TIES", "ties", "weight of the task vector", 1.0),
    "dare": Merge("DARE", "dare", "weight of the task vector", 1.0),
}
"""Merges of one fine-tuned model with the aligned one (and the one before alignment)."""

FUSIONS: Final[dict[str, str]] = {
    "task_arithmetic": "task arithmetic",
    "average": "average",
    "ties": "TIES",
    "dare": "DARE",
}

METHODS: Final[dict[str, dict[str, Any]]] = {
    "paper": {"kind": ["mask_dpo"], "masks": ["soft", "binary", "sampled"], "label": ""},
    "shipped": {
        "kind": ["mask_dpo"],
        "masks": ["binary"],
        "label": "as shipped",
        "train": {"mask_estimator": "straight_through", "mask_noise": 1.0, "mask_noise_end": 0.0},
    },
    "distill": {"kind": ["safety_distill"], "masks": ["soft"], "label": "distilled"},
    "distill_lora": {"kind": [LORA], "label": "distilled LoRA"},
    "sft": {"kind": ["sft"], "label": "SFT"},
    "dpo": {"kind": ["dpo"], "label": "DPO"},
    "sft_dpo": {"kind": ["sft", "dpo"], "label": "SFT, then DPO"},
    **{name: {"kind": [name], "label": merge.label} for name, merge in MERGES.items()},
}

LIKE: Final = {"safety_distill": "distill"}
"""Where a user's own method starts from, by kind, if that is not the method of the same name."""

RECIPES: Final[dict[str, Arguments]] = {
    "all": {
        "do_train": True,
        "cutoff_len": 1024,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "logging_steps": 10,
        "save_steps": 100,
        "save_total_limit": 1,
        "report_to": "none",
        "bf16": True,
        "plot_loss": True,
        "disable_tqdm": True,
    },
    "lora": {"lora_rank": 256, "lora_alpha": 512, "lora_target": "q_proj,v_proj"},
    "sft": {"learning_rate": 1e-4, "num_train_epochs": 3.0},
    "dpo": {"learning_rate": 5e-6, "num_train_epochs": 1.0, "pref_beta": 0.1},
    "mask_dpo": {"learning_rate": 1e-3, "num_train_epochs": 1.0, "pref_beta": 0.1, "mask_temperature": 0.5},
    "mask_dpo_fused": {"learning_rate": 1e-2},
    "safety_distill": {"learning_rate": 0.1, "max_steps": 80},
    LORA: {"learning_rate": 1e-4, "max_steps": 80},
}
"""The paper's settings (arXiv 2405.09055, section 4.1), by recipe, and those of self-distillation; batches of 16."""


def method(name: str, given: Method) -> Method:
    """A method of the configuration, completed from the catalogue.

    Raises:
        UserError: If it is unknown and gives no kind, or a kind, mask or strength means nothing.
    """
    what = f"methods.{name}"
    if name not in METHODS and not given.kind:
        check_choice("methods", name, METHODS)
    kind = given.kind[0] if given.kind else ""
    base = METHODS.get(name) or METHODS.get(LIKE.get(kind, kind), {}) | {"label": name, "train": {}}
    values = base | given.model_dump(exclude_unset=True)
    values["train"] = dict(base.get("train", {})) | given.train
    full = Method.model_validate(values)
    if not full.kind or not all(full.kind):
        raise UserError(f"{what}.kind: is empty, expected one of {', '.join([*TRAININGS, *MERGES])}; give one")
    for kind in full.kind:
        check_choice(f"{what}.kind", kind, [*TRAININGS, *MERGES])
    if len(full.kind) > 1 and not set(full.kind) <= {"sft", "dpo"}:
        raise UserError(f"{what}.kind: {', '.join(full.kind)}, expected one kind, or sft and dpo in turn")
    for mask in full.masks:
        check_choice(f"{what}.masks", mask, MASKS)
    merge = MERGES.get(full.kind[0])
    if merge is None and full.strengths:
        raise UserError(f"{what}.strengths: {full.strengths} but {full.kind[0]} has none; leave it out")
    if full.kind[0] not in MASKED and merge is None and "masks" in given.model_fields_set:
        raise UserError(f"{what}.masks: {', '.join(full.masks)} but {full.kind[0]} trains none; leave it out")
    if merge is not None and (full.train or "masks" in given.model_fields_set):
        raise UserError(f"{what}: {full.kind[0]} trains nothing, expected neither train nor masks; leave them out")
    if merge is not None and not full.strengths and merge.default is not None:
        full.strengths = [merge.default]
    if merge is not None:
        for strength in full.strengths:
            check_range(f"{what}.strengths", strength, merge.lowest, merge.highest, fix=f"it is the {merge.strength}")
    if len({f"{strength:g}" for strength in full.strengths}) < len(full.strengths):
        raise UserError(
            f"{what}.strengths: {full.strengths}, expected numbers that differ in six digits; leave one out"
        )
    return full


Recipe = Literal[
    "sft", "dpo", "mask_dpo", "mask_dpo_fused", "safety_distill", "safety_distill_lora", "baseline_sft", "baseline_dpo"
]


def recipe(
    name: Recipe, given: Mapping[str, Arguments], adaptation: str, changes: Sequence[Mapping[str, Any]] = ()
) -> Arguments:
    """Training arguments of a recipe: the paper's, then the configuration's, the more special ones last.

    Args:
        name: The recipe; a baseline starts from its stage's.
        given: The configuration's ``train``.
        adaptation: ``lora`` or ``full``.
        changes: Further arguments, the later ones winning.
    """
    chain = [
        "all",
        *(["lora"] if adaptation == "lora" and name in ("sft", "baseline_sft", "dpo", "baseline_dpo") else []),
    ]
    if name == "mask_dpo_fused":
        chain.append("mask_dpo")
    if name.startswith("baseline_"):
        chain.append(name.removeprefix("baseline_"))
    chain.append(name)
    found, own = Arguments(), Arguments()
    for part in chain:
        found |= RECIPES.get(part, {})
        own |= given.get(part, {})
    for change in changes:
        own |= change
    if "num_train_epochs" in own and "max_steps" not in own:
        found.pop("max_steps", None)  # it would win
    return found | own


def check_recipes(given: Mapping[str, Arguments]) -> None:
    """Refuse a recipe's name that means nothing.

    Raises:
        UserError: With the closest name.
    """
    for name in given:
        check_choice("train", name, ["all", "lora", *get_args(Recipe)])
