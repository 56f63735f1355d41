"""What the judge is asked about answers that are compared."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.evaluation.assessment import modes
from realign_plugin.evaluation.judging.judge import Judge
from realign_plugin.evaluation.judging.settings import EvaluationSettings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["harmful", "preference"]),
        ({"judge_preference": False}, ["harmful"]),
        ({"judge_preference": "false"}, ["harmful"]),
    ],
)
def test_the_judge_compares_answers_unless_told_not_to(given: dict[str, Any], expected: list[str]) -> None:
    settings = EvaluationSettings.load({"judge": "openai", "reference": "x"} | given, {"OPENAI_API_KEY": "key"})
    judge = Judge(settings)
    assert modes(judge, "harmful", compared=True) == expected
    assert modes(judge, "harmful", compared=False) == ["harmful"]
