"""Agreement with the aligned model: who is measured first, and who is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step

Values = dict[str, Any]
Planned = Callable[..., Plan]


def metadata(step: Step, model: str) -> Values:
    words = next(words for words in step.commands if f"results/{model}" in " ".join(words))
    found: Values = json.loads(words[words.index("--metadata") + 1]) if "--metadata" in words else {}
    return found


@pytest.fixture
def few(values: Values) -> Values:
    return values | {"methods": {"paper": {"masks": "soft"}}, "evaluate": {"tasks": "safety, realign_gsm8k"}}


def test_the_aligned_model_is_measured_first_and_the_others_get_its_samples(few: Values, planned: Planned) -> None:
    plan = planned(few)
    assert "reference" not in metadata(plan.steps["evaluate-aligned"], "aligned")
    for name in ("base", "maths", "maths-paper-0-soft"):
        step = plan.steps[f"evaluate-{name}"]
        assert metadata(step, name) == {"reference": "runs/it/results/aligned", "judge_preference": False}
        assert "evaluate-aligned" in step.needs


def test_jobs_of_several_models_leave_the_reference_to_itself(few: Values, planned: Planned) -> None:
    plan = planned(few | {"evaluate": few["evaluate"] | {"models_per_job": 9}})
    steps = {name: len(step.commands) for name, step in plan.steps.items() if step.kind == "evaluate"}
    assert steps == {"evaluate-aligned": 1, "evaluate-base": 5}
    assert plan.steps["evaluate-base"].needs.count("evaluate-aligned") == 1


def test_an_instruct_base_is_the_reference(few: Values, planned: Planned) -> None:
    plan = planned(few | {"align": None})
    assert metadata(plan.steps["evaluate-maths"], "maths")["reference"] == "runs/it/results/base"
    assert "reference" not in metadata(plan.steps["evaluate-base"], "base")


def test_what_the_reference_does_not_answer_is_not_compared(few: Values, planned: Planned) -> None:
    tasks = {
        "maths": {"dataset": "maths", "evaluate": "safety_catqa, realign_gsm8k"},  # one of the group's
        "code": {"dataset": "code", "evaluate": "over_refusal"},
    }
    plan = planned(few | {"tasks": tasks})
    assert "reference" in metadata(plan.steps["evaluate-maths"], "maths")
    assert metadata(plan.steps["evaluate-code"], "code") == {}
    assert "evaluate-aligned" not in plan.steps["evaluate-code"].needs


@pytest.mark.parametrize(
    "evaluate",
    [
        {"tasks": "realign_gsm8k"},
        {"tasks": "safety", "agreement": False},
        {"tasks": "safety", "metadata": {"reference": "elsewhere"}},
    ],
)
def test_no_comparison_where_none_is_asked_or_possible(few: Values, planned: Planned, evaluate: Values) -> None:
    plan = planned(few | {"evaluate": evaluate})
    assert metadata(plan.steps["evaluate-maths"], "maths") == evaluate.get("metadata", {})
    assert "evaluate-aligned" not in plan.steps["evaluate-maths"].needs


def test_the_judge_compares_where_the_user_says_so(few: Values, planned: Planned) -> None:
    evaluate = few["evaluate"] | {"metadata": {"judge_preference": True}}
    found = metadata(planned(few | {"evaluate": evaluate}).steps["evaluate-maths"], "maths")
    assert found == {"reference": "runs/it/results/aligned", "judge_preference": True}


def test_ablations_compare_with_the_main_results_and_topics_with_their_own(few: Values, planned: Planned) -> None:
    plan = planned(few, ablations={"granularity": {"values": ["row"]}, "topics": None})
    new = plan.steps["evaluate-maths-paper-row-0-soft"]
    assert metadata(new, "maths-paper-row-0-soft")["reference"] == "runs/it/results/aligned"
    assert "evaluate-aligned" in new.needs
    topics = plan.steps["evaluate-topics-maths"]
    assert json.loads(topics.commands[0][-1])["reference"] == "runs/it/results-topics/aligned"
    assert "evaluate-topics-aligned" in topics.needs


def test_strengths_are_chosen_on_other_prompts_without_a_reference(few: Values, planned: Planned) -> None:
    evaluate = few["evaluate"] | {"choose": {"metadata": {"safety_data": "validation"}}}
    plan = planned(few | {"methods": {"resta": {"strengths": [0.1, 0.5]}}, "evaluate": evaluate})
    (words,) = plan.steps["evaluate-choose-maths-resta-s0.1"].commands
    assert json.loads(words[-1]) == {"safety_data": "validation"}
    assert Path(plan.steps["evaluate-maths-resta"].creates[0]).name == "maths-resta"
