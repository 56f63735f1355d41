from __future__ import annotations

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.catalogue import MERGES, METHODS, check_recipes, method, recipe
from realign_plugin.lab.study.config.models import Method


def test_the_recipes_are_the_papers() -> None:
    sft, single, fused = (recipe(name, {}, "lora") for name in ("sft", "mask_dpo", "mask_dpo_fused"))
    assert (sft["lora_rank"], sft["lora_target"]) == (256, "q_proj,v_proj")
    assert (single["learning_rate"], fused["learning_rate"]) == (1e-3, 1e-2)
    assert (fused["pref_beta"], fused["mask_temperature"]) == (0.1, 0.5)
    assert sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] == 16
    assert "lora_rank" not in recipe("sft", {}, "full")
    assert "lora_rank" not in single


def test_the_more_special_recipe_wins() -> None:
    given = {
        "baseline_sft": {"learning_rate": 3.0},
        "sft": {"learning_rate": 2.0, "max_steps": 5},
        "all": {"max_steps": 1},
    }
    assert recipe("baseline_sft", given, "lora")["learning_rate"] == 3.0
    assert recipe("baseline_sft", given, "lora")["max_steps"] == 5
    assert recipe("dpo", given, "lora")["max_steps"] == 1
    assert recipe("mask_dpo_fused", {"mask_dpo": {"learning_rate": 0.5}}, "lora")["learning_rate"] == 0.5


def test_methods_are_completed_from_the_catalogue() -> None:
    shipped = method("shipped", Method(train={"learning_rate": 0.2}))
    assert shipped.kind == ["mask_dpo"]
    assert shipped.train == {
        "mask_estimator": "straight_through", "mask_noise": 1.0, "mask_noise_end": 0.0, "learning_rate": 0.2,
    }  # fmt: skip
    own = method("mine", Method(kind="mask_dpo", masks=["soft"]))
    assert (own.label, own.train) == ("mine", {})
    assert method("resta", Method()).strengths == [0.5]
    assert all(method(name, Method()).kind for name in METHODS)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("papre", Method(), "did you mean 'paper'"),
        ("mine", Method(kind="mask_dop"), "did you mean 'mask_dpo'"),
        ("paper", Method(masks=["hard"]), "'hard'"),
        ("paper", Method(strengths=[1.0]), "has none"),
        ("interpolation", Method(strengths=[-3]), r"-3.0 is out of range, expected \[0, 2\]; it is the weight of"),
        ("safe_lora", Method(strengths=[1.5]), r"1.5 is out of range, expected \[-1, 1\]"),
        ("resta", Method(train={"x": 1}), "trains nothing"),
        ("mine", Method(kind=["sft", "resta"]), "expected one kind"),
    ],
)
def test_methods_that_mean_nothing_are_refused(name: str, given: Method, says: str) -> None:
    with pytest.raises(UserError, match=says):
        method(name, given)


def test_recipes_have_names() -> None:
    with pytest.raises(UserError, match="did you mean 'mask_dpo'"):
        check_recipes({"mask_dop": {}})


def test_every_merge_has_a_label_and_a_strength() -> None:
    assert all(merge.label and merge.default is not None for merge in MERGES.values())
