"""Plain fusion of several fine-tuned models, not realigned: what `mask_dpo` of the same recipe starts from.

    python fuse.py RECIPE.yaml OUT --aligned ADAPTER --tasks ADAPTER ADAPTER

It is a safety subspace whose mask is all ones, exported as a LoRA adapter.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from realign_plugin import SafetySubspace

ALL_ONES = 30.0
"""A logit that every mask takes for 1."""


def plain_fusion(recipe: Mapping[str, Any], aligned: Path, tasks: Sequence[Path]) -> SafetySubspace:
    """The subspace of a recipe in train/, with all its mask logits at ``ALL_ONES``."""
    names = ("fusion_method", "task_weight", "ties_density", "dare_drop_rate", "fusion_seed")
    options = {name: recipe[name] for name in names if name in recipe}
    return SafetySubspace.from_adapters(aligned, tasks, mask_init=ALL_ONES, mask="binary", **options)


def main() -> None:
    """Fuse and export."""
    parser = argparse.ArgumentParser(description="Fuse fine-tuned models plainly.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--aligned", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    plain_fusion(recipe, options.aligned, options.tasks).to_lora(options.out)


if __name__ == "__main__":
    main()
