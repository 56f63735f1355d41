"""What a plan is built with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.planning.builder import Builder
from realign_plugin.lab.study.planning.plan import Plan

Building = Callable[..., Builder]


@pytest.fixture
def building(values: dict[str, Any], tmp_path: Path) -> Building:
    return lambda **changes: Builder(parse(values | changes), tmp_path)


def test_mergekit_takes_folders_for_folders(building: Building, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    builder = building()
    assert builder.local("runs/it/models/x") == "./runs/it/models/x"  # yet to be made
    assert builder.local("mine") == "./mine"
    assert builder.local("org/base") == "org/base"
    assert builder.local(str(tmp_path / "mine")) == str(tmp_path / "mine")


@pytest.mark.parametrize("name", ["a+b", "a@b"])
def test_a_folder_that_mergekit_would_split(building: Building, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"has a \+ or @, at which mergekit splits"):
        building().local(name)
    assert building().local("org/base@main") == "org/base@main"


@pytest.mark.parametrize("what", ["tasks.maths.adapter", "align.adapter"])
def test_a_folder_that_llamafactory_would_split(
    values: dict[str, Any], tmp_path: Path, planned: Callable[..., Plan], what: str
) -> None:
    for name in ("a,b", "a+b"):
        (tmp_path / name).mkdir()
    given = values | {"align": {"adapter": "a+b"}, "methods": {"paper": {}}}
    planned(given)  # nothing is merged
    given |= {"align": {"adapter": "a,b"}} if what == "align.adapter" else {"tasks": {"maths": {"adapter": "a,b"}}}
    with pytest.raises(UserError, match=f"{what}: a,b has a comma, at which LLaMA-Factory splits"):
        planned(given)


def test_a_model_of_several_seeds_has_its_name_and_its_label(building: Building) -> None:
    builder = building(seeds=[3, 4])
    for seed in (3, 4):
        builder.model(f"x-{seed}", "x", "maths", "baseline", "s", ("m", "a"), seed=seed, method="dpo")
    first, second = (builder.plan.models[f"x-{seed}"] for seed in (3, 4))
    assert [(one.label, one.name, one.seed, one.method) for one in (first, second)] == [
        ("x", "x", 3, "dpo"), ("x, seed 4", "x", 4, "dpo"),
    ]  # fmt: skip
    alone = builder.model("y", "y", "maths", "baseline", "s", ("m", None), tasks=["safety"])
    assert (alone.name, alone.tasks, alone.peft) == ("", ("safety",), None)
    with pytest.raises(UserError, match="two models have this name"):
        builder.model("y", "other", "maths", "baseline", "s", ("m", None))


def test_stock_trainings_go_on_from_an_adapter_or_a_model(building: Building) -> None:
    lora, full = building(), building(adaptation="full")
    assert lora.stage("dpo", "start")["ref_model_adapters"] == "start"
    assert "adapter_name_or_path" not in lora.stage("sft", None)
    assert full.stage("dpo", "start") == {
        "model_name_or_path": "start", "stage": "dpo", "finetuning_type": "full", "ref_model": "start",
    }  # fmt: skip
    assert (lora.place("x"), full.place("x")) == (("org/base", "x"), ("x", None))


def test_only_what_the_user_gives_is_watched(building: Building, tmp_path: Path) -> None:
    for folder in ("mine", "runs/it/models/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").touch()
    assert building().given("mine", "runs/it/models/x", "gone", None) == ("mine/config.json",)
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        (tmp_path / "mine" / name).touch()
    assert set(building().given("mine")) == {
        "mine/config.json", "mine/model.safetensors.index.json", "mine/model-00001-of-00002.safetensors",
    }  # fmt: skip
