"""The parts of the ablations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.config.measuring import Pick, Poisoning
from realign_plugin.lab.study.planning.ablation_parts import check_realigned, new_models, picked, table
from realign_plugin.lab.study.planning.ablations import _limited, poisoning
from realign_plugin.lab.study.planning.builder import Builder
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.realignment import align, tasks
from tests.lab.study.test_launch import recipe


@pytest.fixture
def builder(values: dict[str, Any], tmp_path: Path) -> Builder:
    """Builds all but the tables."""
    made = Builder(parse(values), tmp_path)
    for name, dataset in made.config.data.items():
        made.datasets.add(name, dataset)
    align(made)
    tasks(made)
    return made


def test_the_first_task_and_the_first_fitting_method_are_taken(builder: Builder) -> None:
    assert picked(builder, Pick(), "granularity", ["mask_dpo"]) == (["maths"], ["paper"])
    asked = Pick(tasks=["code"], methods=["shipped"])
    assert picked(builder, asked, "granularity", ["mask_dpo"]) == (["code"], ["shipped"])
    with pytest.raises(UserError, match="no method is safety_distill"):
        picked(builder, Pick(), "granularity", ["safety_distill"])


def test_pairs_are_shared_out_over_their_data_sets(builder: Builder) -> None:
    names, changes = _limited(builder, ["pairs", "maths"], 7)
    assert (names, changes) == (["pairs_n7", "maths_n7"], {})
    limits = [builder.plan.steps[f"data-{name}"].commands[0] for name in names]
    assert [words[words.index("--limit") + 1] for words in limits] == ["4", "3"]
    assert _limited(builder, ["pairs", "maths"], 1)[0] == ["pairs_n1"]
    assert _limited(builder, ["elsewhere", "pairs"], 7) == (["elsewhere", "pairs"], {"max_samples": 4})


def test_what_is_poisoned_is_one_data_set_of_the_studys(builder: Builder) -> None:
    builder.config.tasks["maths"].dataset = ["maths", "code"]
    with pytest.raises(UserError, match="not fine-tuned on one data set"):
        poisoning(builder, Poisoning(shares=[0.1]))


def test_a_method_that_leaves_out_the_first_seed_or_the_task_is_refused(builder: Builder) -> None:
    check_realigned(builder, "maths", "paper", "transfer")
    builder.config.tasks["maths"].methods = ["shipped"]
    with pytest.raises(UserError, match=r"tasks\.maths\.methods leaves paper out"):
        check_realigned(builder, "maths", "paper", "transfer")
    builder.methods["paper"].seeds = [5]
    with pytest.raises(UserError, match="lacks 0"):
        check_realigned(builder, "code", "paper", "transfer")


def test_a_table_shows_the_tasks_rows_and_the_new_ones(builder: Builder) -> None:
    builder.measuring.tables()
    with new_models(builder) as models:
        builder.model("new", "new", "maths", "realigned", "", ("m", None))
    table(builder, "mine", "Mine", "What it shows.", ["maths"], models)
    rows = builder.plan.tables["mine"].models
    assert rows[:3] == ("base", "aligned", "maths")
    assert rows[-1] == "new"
    assert not [name for name in rows if name.startswith("code") or "resta" in name]
    assert builder.plan.targets["mine"] == ["table-mine"]


def test_every_ablation_ends_in_a_table(values: dict[str, Any], planned: Callable[..., Plan]) -> None:
    names = ["poisoning", "transfer", "topics", "data_efficiency", "granularity", "mask_kind", "strength"]
    plan = planned(values, ablations=dict.fromkeys(names))
    for name in names:
        assert plan.targets[name] == [f"table-{name}"]
        assert len(plan.tables[name].models) > 2
    main = {step.name for step in plan.wanted(["main"])}
    assert not {step for step in main if "poison" in step or "-of-" in step}
    assert {step.name for step in plan.wanted(["all"])} == set(plan.steps)


def test_ablations_train_on_what_they_are_about(values: dict[str, Any], planned: Callable[..., Plan]) -> None:
    ablations = {
        "poisoning": {"shares": [0.05]}, "transfer": None, "data_efficiency": {"values": [10]},
        "granularity": {"values": ["row", "module"]}, "mask_kind": None, "strength": {"values": [0.5]},
    }  # fmt: skip
    plan = planned(values, ablations=ablations)
    poison = plan.steps["data-poison_maths_5"].commands[0]
    assert poison[poison.index("--share") + 1] == "0.05"
    assert poison[poison.index("--of") + 1] == "maths"
    assert recipe(plan, "maths-poisoned5")["dataset"] == "maths,poison_maths_5"
    assert recipe(plan, "maths-poisoned5-paper-0")["task_adapters"] == ["runs/it/models/maths-poisoned5"]
    assert plan.steps["code-paper-of-maths-0"].commands[0][-2:] == ("--task-adapter", "runs/it/models/code")
    assert recipe(plan, "maths-paper-n10-0")["dataset"] == "pairs_n10"
    few = plan.steps["data-pairs_n10"].commands[0]
    assert few[few.index("--limit") + 1] == "10"
    assert recipe(plan, "maths-paper-row-0")["mask_granularity"] == "row"
    assert recipe(plan, "maths-paper-module-0")["mask_rescale"] is False
    assert plan.steps["masks-maths-paper-0"].creates == ("runs/it/models/maths-paper-0-relaxed",)
    assert plan.models["maths-resta-at0.5"].label == "RESTA at 0.5"
    text = plan.steps["strength-maths-paper-0"].files["runs/it/steps/maths-paper-0-at0.5.yaml"]
    assert yaml.safe_load(text)["parameters"] == {
        "adapter": "runs/it/models/maths-paper-0", "strength": 0.5, "mask": "soft",
    }  # fmt: skip


def test_steps_of_given_models_watch_their_files(
    values: dict[str, Any], planned: Callable[..., Plan], tmp_path: Path
) -> None:
    for name in ("one", "two", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("config.json" if name == "base" else "adapter_config.json")).write_text("{}")
    tasks = {name: {"adapter": name} for name in ("one", "two")}
    data = {"pairs": values["data"]["pairs"], "own": {"kind": "on_policy", "task": "one", "prompts": ["safety_catqa"]}}
    changes = {"model": "base", "tasks": tasks, "data": data, "align": None, "realign": {"pairs": "pairs"}}
    changes |= {"methods": {"paper": {}, "interpolation": {}}, "train": {"mask_dpo": {"task_weight": 0.5}}}
    plan = planned(
        values, ablations={"transfer": None, "strength": {"methods": ["interpolation"], "values": [0.5]}}, **changes
    )
    watched = {name: set(plan.steps[name].inputs) for name in plan.steps}
    assert "base/config.json" in watched["data-own"]
    assert "two/adapter_config.json" in watched["two-paper-of-one-0"]
    assert {"base/config.json", "one/adapter_config.json"} <= watched["strength-one-interpolation"]
    assert plan.steps["two-paper-of-one-0"].commands[0][-2:] == ("--task-weight", "0.5")


def test_strengths_that_are_the_same_are_refused(values: dict[str, Any], planned: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match=r"ablations\.strength\.values: \[0\.5, 0\.5\], expected numbers that differ"):
        planned(values, methods={"interpolation": {}}, ablations={"strength": {"values": [0.5, 0.5]}})


@pytest.mark.parametrize(
    ("ablation", "says"),
    [
        ({"poisoning": {"shares": [0.1, 0.1]}}, r"ablations.poisoning.shares: \[0.1, 0.1\], expected each once"),
        (
            {"granularity": {"values": ["row", "row"]}},
            r"ablations.granularity.values: \['row', 'row'\], expected each",
        ),
        ({"data_efficiency": {"values": [10.5]}}, r"ablations.data_efficiency.values: 10.5, expected whole numbers"),
    ],
)
def test_values_are_whole_and_each_there_once(
    values: dict[str, Any], planned: Callable[..., Plan], ablation: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        planned(values, ablations=ablation)
