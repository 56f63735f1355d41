"""Methods of self-distillation, for masks and for plain LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.launch import describe
from realign_plugin.lab.study.planning.plan import Plan
from tests.lab.study.test_launch import recipe

Values = dict[str, Any]
Planned = Callable[..., Plan]


@pytest.fixture
def distilled(values: Values) -> Values:
    """Both methods, on data sets of the study."""
    realign = {"safety": "answers", "skill": "maths", "pairs": "pairs"}
    return values | {"realign": realign, "methods": {"distill": {}, "distill_lora": {}}}


def test_both_start_from_the_fine_tuned_adapter_with_the_aligned_one_as_teacher(
    distilled: Values, planned: Planned
) -> None:
    plan = planned(distilled)
    for method, kind in (("distill", "safety_subspace"), ("distill_lora", "lora")):
        found = recipe(plan, f"maths-{method}-0")
        assert (found["stage"], found["finetuning_type"]) == ("safety_distill", kind)
        assert found["aligned_adapter"] == "runs/it/models/aligned"
        assert found["task_adapters"] == ["runs/it/models/maths"]
        assert (found["dataset"], found["skill_dataset"]) == ("answers,maths", "maths")
        assert "adapter_name_or_path" not in found
        assert {"maths", "aligned", "data-answers", "data-maths"} == set(plan.steps[f"maths-{method}-0"].needs)
    assert (recipe(plan, "maths-distill-0")["learning_rate"], recipe(plan, "maths-distill_lora-0")["learning_rate"]) \
        == (0.1, 1e-4)  # fmt: skip


def test_masks_are_exported_and_lora_is_measured_as_it_is(distilled: Values, planned: Planned) -> None:
    plan = planned(distilled)
    (command,) = plan.steps["export-maths-distill-0"].commands
    assert command[-1] == "soft"  # the mask that was trained
    masks, lora = plan.models["maths-distill-0-soft"], plan.models["maths-distill_lora-0"]
    assert (masks.role, masks.label, masks.subspace) == (
        "realigned", "realigned (distilled)", "runs/it/models/maths-distill-0",
    )  # fmt: skip
    assert (lora.role, lora.label, lora.subspace) == ("realigned", "realigned (distilled LoRA)", None)
    assert (lora.peft, lora.step) == ("runs/it/models/maths-distill_lora-0", "maths-distill_lora-0")
    assert {training.stage for training in describe(plan).trainings} >= {"safety_distill"}


def test_seeds_overrides_and_methods_of_ones_own(distilled: Values, planned: Planned) -> None:
    methods = {
        "distill": {"train": {"learning_rate": 0.2}, "masks": ["soft", "binary"], "seeds": [3]},
        "gentle": {"kind": "safety_distill", "train": {"distill_skill_weight": 2.0}},
        "distill_lora": {},
    }
    train = {"safety_distill": {"max_steps": 7}, "safety_distill_lora": {"max_steps": 9}}
    plan = planned(distilled | {"methods": methods, "train": train}, seeds=2)
    assert recipe(plan, "maths-distill-3") | {"learning_rate": 0.2, "max_steps": 7, "seed": 3} == recipe(
        plan, "maths-distill-3"
    )
    assert len(plan.steps["export-maths-distill-3"].commands) == 2
    assert recipe(plan, "maths-gentle-1")["distill_skill_weight"] == 2.0
    assert plan.steps["export-maths-gentle-1"].commands[0][-1] == "soft"
    assert recipe(plan, "maths-distill_lora-1")["max_steps"] == 9
    assert "distill_lora-1" in plan.models["maths-distill_lora-1"].id


def test_whole_models_have_masks_and_no_lora(distilled: Values, planned: Planned) -> None:
    full = planned(distilled | {"methods": {"distill": {}}}, adaptation="full")
    found = recipe(full, "maths-distill-0")
    assert (found["task_models"], found["model_name_or_path"]) == (["runs/it/models/maths"], "runs/it/models/aligned")
    with pytest.raises(UserError, match="trains LoRA adapters, but adaptation is full"):
        planned(distilled, adaptation="full")


def test_fused_models_are_distilled_from_what_all_tasks_name(distilled: Values, planned: Planned) -> None:
    tasks = {"maths": {"dataset": "maths", "skill": "maths"}, "code": {"dataset": "code", "skill": "code"}}
    fusion = {"methods": {"ties": {}}, "realign": "distill"}
    found = recipe(planned(distilled | {"tasks": tasks}, fusion=fusion), "fused-ties-distill-0")
    assert found["task_adapters"] == ["runs/it/models/maths", "runs/it/models/code"]
    assert (found["dataset"], found["skill_dataset"]) == ("answers,maths,code", "maths,code")
    assert (found["stage"], found["fusion_method"]) == ("safety_distill", "ties")


def test_ablations_take_masks_that_are_distilled(distilled: Values, planned: Planned) -> None:
    ablations = {
        "granularity": {"values": ["row"]},
        "mask_kind": None,
        "transfer": None,
        "strength": {"values": [0.5]},
    }
    plan = planned(distilled | {"methods": {"distill": {}}}, ablations=ablations)
    found = recipe(plan, "maths-distill-row-0")
    assert (found["stage"], found["mask_granularity"]) == ("safety_distill", "row")
    assert "maths-distill-0-at0.5" in plan.models
    assert "maths-distill-of-code-0" in plan.steps


def test_nothing_to_learn_from_is_refused(distilled: Values, planned: Planned) -> None:
    for lesson in ("safety", "skill"):
        with pytest.raises(UserError, match=rf"realign\.{lesson}: is empty, expected data sets of"):
            planned(distilled | {"realign": distilled["realign"] | {lesson: []}})


def test_a_skill_without_weight_needs_no_data(distilled: Values, planned: Planned) -> None:
    alone = distilled | {"realign": {"safety": "answers"}, "methods": {"distill": {}}}
    for where in ({"train": {"safety_distill": {"distill_skill_weight": 0}}},
                  {"methods": {"distill": {"train": {"distill_skill_weight": 0}}}}):  # fmt: skip
        found = recipe(planned(alone | where), "maths-distill-0")
        assert (found["dataset"], "skill_dataset" in found) == ("answers", False)
