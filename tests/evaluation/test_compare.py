"""Results side by side: what was not measured alike is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.evaluation.compare import compare, markdown
from realign_plugin.evaluation.report import print_comparison


def results(folder: Path, name: str, count: int, judge: dict[str, Any], template: str | None = "x") -> str:
    """A result file of one task; the rate is of all its prompts."""
    known = {"low": 0.0, "high": 0.5, "hits": 0, "count": count}
    found = {
        "results": {"safety_made_up": {"refusal_rate,none": 0.0}},
        "higher_is_better": {"safety_made_up": {"refusal_rate": True}},
        "n-samples": {"safety_made_up": {"original": 100, "effective": count}},
        "realign": {"intervals": {"safety_made_up": {"refusal_rate": known}}, "judge": judge},
        "config": {},
        "chat_template": template,
    }
    (folder / name).write_text(json.dumps(found), encoding="utf-8")
    return f"{name}={folder / name}"


def test_like_results_give_no_warning(tmp_path: Path) -> None:
    entries = [results(tmp_path, name, 20, {"judge": "off"}) for name in ("one", "two")]
    assert compare(entries)["warnings"] == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"count": 20}, "Not like for like: number of prompts of safety_made_up: 100 for one, 20 for two"),
        ({"judge": {"judge": "openai", "model": "m2"}}, "Not like for like: judge: m1 for one, m2 for two"),
        ({"template": None}, "Not like for like: chat template: used for one, not used for two"),
    ],
)
def test_what_was_not_measured_alike_is_told(
    tmp_path: Path, other: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usual: dict[str, Any] = {"count": 100, "judge": {"judge": "openai", "model": "m1"}}
    found = compare([results(tmp_path, "one", **usual), results(tmp_path, "two", **usual | other)])
    assert found["warnings"] == [says]
    assert says in markdown(found)
    print_comparison(found)
    assert says in " ".join(capsys.readouterr().out.split())
