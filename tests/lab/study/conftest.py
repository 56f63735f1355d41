"""Configurations of small studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.launch import build
from realign_plugin.lab.study.planning.plan import Plan

Values = dict[str, Any]


@pytest.fixture
def values() -> Values:
    """A study of two tasks that is made from data alone."""
    return {
        "root": "runs/it",
        "model": "org/base",
        "template": "llama3",
        "data": {
            "answers": {"kind": "sft", "task": "align"},
            "pairs": {"kind": "preference", "validation": 0.1},
            "maths": {"kind": "sft", "task": "gsm8k"},
            "code": {"kind": "sft", "task": "code_alpaca"},
        },
        "align": {"steps": [{"stage": "sft", "dataset": "answers"}, {"stage": "dpo", "dataset": "pairs"}]},
        "tasks": {"maths": {"dataset": "maths"}, "code": {"dataset": "code"}},
        "realign": {"pairs": "pairs", "answers": "answers"},
        "methods": {"paper": {}, "shipped": {}, "sft_dpo": {}, "resta": {}, "safe_lora": {}},
    }


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """Plans a configuration in an empty folder."""

    def plan(values: Values, **changes: Any) -> Plan:
        return build(parse(values | changes), tmp_path)

    return plan
