"""Trainings: completed from the recipes, and the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.config.models import Prepare
from realign_plugin.lab.study.planning.builder import Builder
from realign_plugin.lab.study.planning.commands import Shell, Train
from realign_plugin.lab.study.planning.trainings import Run, own_steps, train


@pytest.fixture
def builder(values: dict[str, Any], tmp_path: Path) -> Builder:
    made = Builder(parse(values | {"train": {"all": {"max_steps": 3}}}), tmp_path)
    for name in ("maths", "pairs"):
        made.datasets.add(name, made.config.data[name])
    return made


def test_a_training_has_its_facts_as_fields(builder: Builder) -> None:
    changes = [{"learning_rate": 1.0}, {"learning_rate": 2.0, "eval_dataset": "pairs_validation"}]
    run = Run(
        "m-dpo", "baseline", "DPO", "baseline_dpo", ["pairs"], {"stage": "dpo"}, changes, ("",), seed=1, suffix="-x"
    )
    step = builder.plan.steps[train(builder, run)]
    (command,) = step.does
    assert isinstance(command, Train)
    assert {key: command.arguments[key] for key in ("seed", "learning_rate", "max_steps", "dataset")} == {
        "seed": 1, "learning_rate": 2.0, "max_steps": 3, "dataset": "pairs",
    }  # fmt: skip
    assert (step.name, step.kind, step.needs) == ("m-dpo-1-x", "baseline", ("data-pairs",))
    training = step.training
    assert training is not None
    assert (training.id, training.name, training.seed, training.stage, training.folder) == (
        "m-dpo-1-x", "m-dpo-x: DPO", 1, "dpo", "runs/it/models/m-dpo-1-x",
    )  # fmt: skip


def test_validation_rows_of_the_skill_go_with_the_skill(builder: Builder) -> None:
    arguments = {"stage": "safety_distill", "skill_dataset": "pairs"}
    changes = [{"eval_dataset": ["pairs_validation"]}]
    run = Run("m", "realign", "x", "safety_distill", ["maths", "pairs"], arguments, changes, ())
    (command,) = builder.plan.steps[train(builder, run)].does
    assert isinstance(command, Train)
    assert command.arguments["skill_dataset"] == "pairs,pairs_validation"


def test_the_users_own_steps_follow_each_other(builder: Builder) -> None:
    entries = [
        Prepare(name="one", command="echo hi"),
        Prepare(name="two", train={"output_dir": "made", "stage": "sft"}, threads=3),
    ]
    assert own_steps(builder, entries, "prepare", ("before",)) == ("one", "two")
    one, two = builder.plan.steps["one"], builder.plan.steps["two"]
    assert (one.does, one.needs, one.threads, one.training) == ((Shell("echo hi"),), ("before",), 1, None)
    assert (two.needs, two.threads, two.creates) == (("before", "one"), 3, ("made",))
    with pytest.raises(UserError, match="expected either a command or train"):
        own_steps(builder, [Prepare(name="x")], "finish", ())
