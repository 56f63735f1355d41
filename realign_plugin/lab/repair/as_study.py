"""A repair as a study: the same data and trainings, for ``realign study`` to go on with."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from realign_plugin.lab.repair.plan import CUTOFF, SKILL_TOKENS, Inputs, Method
from realign_plugin.lab.repair.training import on_this_machine
from realign_plugin.lab.study.planning.builder import RESERVED

HEAD: Final = """# A repair as a study: `realign study {name} -n` names its steps, `realign study {name}` runs them.
# It measures with lm-eval (safety, over_refusal); add the tasks of your own skill, baselines and seeds. docs/study.md
"""
METHODS: Final[dict[Method, str]] = {"masks": "distill", "lora": "distill_lora"}


def as_study(inputs: Inputs, out: Path, name: str, template: str | None, can_think: bool) -> str:
    """The text of the study.

    Args:
        inputs: What the user gave the repair.
        out: The repair's folder.
        name: The study's file.
        template: LLaMA-Factory's name; None: read from the tokenizer.
        can_think: Whether the model can think; the study trains and measures without, as the repair does.
    """
    unskilled = {} if inputs.skill else {"distill_skill_weight": 0.0}
    silent = {"enable_thinking": False} if can_think else {}
    task, spent = _task(inputs.adapter.name), inputs.spent
    values: dict[str, Any] = {
        "title": f"Repair of {inputs.adapter.name}",
        "root": str(out.absolute() / "study"),
        "model": _path(inputs.base),
        "template": template,
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
                "cutoff_len": CUTOFF, "gradient_accumulation_steps": 1, "warmup_ratio": 0.0,
                **on_this_machine(inputs.base), **silent,
            },
            "safety_distill": {"max_steps": spent.steps, **spent.options["masks"], **unskilled},
            "safety_distill_lora": {"max_steps": spent.steps, **spent.options["lora"], **unskilled},
        },
        "evaluate": {"tasks": ["safety", "over_refusal"], "model_args": silent or None},
    }  # fmt: skip
    return HEAD.format(name=name) + str(OmegaConf.to_yaml(OmegaConf.create(_given(values))))


def _task(folder: str) -> str:
    """The name of the task whose adapter a folder holds: letters, digits and _ only."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain).strip("_").lower() or "repair"
    return f"{name}_task" if name in RESERVED else name


def _path(name: str) -> str:
    """A path that holds from any folder; a hub id or a task's name as it is."""
    return os.path.abspath(name) if Path(name).exists() else name


def _paths(names: Sequence[str]) -> list[str] | None:
    return [_path(name) for name in names] or None


def _given(value: Any) -> Any:
    """A value without what is None."""
    return {k: _given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
