"""A repair as a study: the same data and trainings, for ``realign study`` to go on with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from realign_plugin.lab.repair.plan import CUTOFF, ROWS, SKILL_TOKENS, Inputs, Method

HEAD: Final = """# A repair as a study: `realign study {name} -n` names its steps, `realign study {name}` runs them.
# It measures with lm-eval (safety, over_refusal); add the tasks of your own skill, baselines and seeds. docs/study.md
"""
METHODS: Final[dict[Method, str]] = {"masks": "distill", "lora": "distill_lora"}


def as_study(inputs: Inputs, out: Path, name: str, can_think: bool) -> str:
    """The text of the study.

    Args:
        inputs: What the user gave the repair.
        out: The repair's folder.
        name: The study's file.
        can_think: Whether the model can think; the study trains and measures without, as the repair does.
    """
    silent = {"enable_thinking": False} if can_think else {}
    task = re.sub(r"\W+", "_", inputs.adapter.name).strip("_").lower() or "repair"
    spent = inputs.spent
    values: dict[str, Any] = {
        "title": f"Repair of {inputs.adapter.name}",
        "root": str(out.absolute() / "study"),
        "model": _path(inputs.base),
        "template": inputs.template,
        "seeds": [inputs.seed],
        "align": {"adapter": _path(str(inputs.aligned))} if inputs.aligned else None,
        "tasks": {task: {"adapter": _path(str(inputs.adapter))}},
        "data": {
            "own": {
                "kind": "on_policy", "task": task, "prompts": _paths(inputs.prompts),
                "benign": _paths(inputs.benign), "skill": _paths(inputs.skill),
                "evaluation": _paths((*inputs.test, *inputs.test_benign)), "limit": spent.harmful,
                "skill_limit": spent.skill if inputs.skill else None, "max_tokens": spent.answer_tokens,
                "skill_max_tokens": SKILL_TOKENS, "seed": inputs.seed, "validation": 0.1,
            },
        },
        "methods": {METHODS[method]: {} for method in inputs.methods},
        "train": {
            "all": {
                "cutoff_len": CUTOFF, "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, **silent,
            },
            "safety_distill": {"max_steps": spent.steps, **spent.options["masks"]},
            "safety_distill_lora": {"max_steps": spent.steps, **spent.options["lora"]},
        },
        "evaluate": {"tasks": ["safety", "over_refusal"], "model_args": silent or None},
    }  # fmt: skip
    return HEAD.format(name=name) + str(OmegaConf.to_yaml(OmegaConf.create(_given(values))))


def _path(name: str) -> str:
    """A path that holds from any folder; a hub id or a task's name as it is."""
    return os.path.abspath(name) if Path(name).exists() else name


def _paths(names: Sequence[str]) -> list[str] | None:
    return [_path(name) for name in names] or None


def _given(value: Any) -> Any:
    """A value without what is None."""
    return {k: _given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
