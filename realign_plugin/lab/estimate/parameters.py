"""What is trained, module by module, and the baseline that a training is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from realign_plugin.lab.estimate.adapters import factor_shapes
from realign_plugin.lab.estimate.shapes import numbers
from realign_plugin.lab.estimate.training import Training
from realign_plugin.method.masks import logits_shape
from realign_plugin.training.settings.preflight import DISTILL


def by_module(training: Training) -> list[dict[str, Any]]:
    """Rows for modules that are alike: the last part of their name, shape and rank.

    Returns:
        ``{"target", "modules", "weight", "rank", "elements", "logits"}`` each, the last two over all its modules.
    """
    granularity: Any = training.spec.mask_granularity
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for module, pair in training.shapes.items():
        name, weight = module.rpartition(".")[2], training.model.linears[module]
        rank = pair["A"][0] if "A" in pair else None
        row = rows.setdefault(
            (name, weight, rank),
            {"target": name, "modules": 0, "weight": list(weight), "rank": rank, "elements": 0, "logits": 0},
        )
        row["modules"] += 1
        row["elements"] += numbers(pair.values())
        if training.kind == "mask":
            row["logits"] += numbers(logits_shape(shape, granularity) for shape in pair.values())
    return list(rows.values())


def lora_baseline(training: Training, rank: int = 8) -> Training | None:
    """LoRA-DPO on the same set-up: the same modules, ranks and batches; None for other stages.

    Args:
        training: A training of masks, or of LoRA by self-distillation.
        rank: Rank of the factors where masks are on whole weights: LLaMA-Factory's default.
    """
    if training.kind != "mask" and training.stage != DISTILL:
        return None
    shapes = training.shapes
    if training.spec.vector_space == "weight":
        shapes = factor_shapes(training.model, dict.fromkeys(shapes, rank))
    dtype = torch.bfloat16 if training.precision == "pure_bf16" else torch.float32
    return replace(
        training, stage="dpo", kind="lora", shapes=shapes, vector_dtype=dtype, keep_weight=0.0,
        reference=None if training.reference is None else "base",
    )  # fmt: skip
