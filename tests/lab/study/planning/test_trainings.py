"""Trainings: completed from the recipes, and the user's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.config.models import Prepare
from realign_plugin.lab.study.launch import build
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


@pytest.mark.parametrize(
    ("own", "changes", "steps"),
    [({}, [], 80), ({}, [{"num_train_epochs": 3}], None), ({"num_train_epochs": 2}, [], None),
     ({"num_train_epochs": 2}, [{"max_steps": 9}], 9)],
)  # fmt: skip
def test_epochs_that_are_asked_for_win_over_a_recipes_steps(
    values: dict[str, Any], tmp_path: Path, own: dict[str, Any], changes: list[dict[str, Any]], steps: int | None
) -> None:
    made = Builder(parse(values | {"train": {"safety_distill": own}}), tmp_path)
    made.datasets.add("maths", made.config.data["maths"])
    run = Run("m", "realign", "x", "safety_distill", ["maths"], {"stage": "safety_distill"}, changes, ())
    (command,) = made.plan.steps[train(made, run)].does
    assert isinstance(command, Train)
    assert command.arguments.get("max_steps") == steps


def test_a_model_that_can_think_is_trained_and_measured_without(
    lab: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(lab / "base", base)
    own = {"kind": "on_policy", "prompts": ["safety_catqa"], "task": "maths"}
    for template, silent in (("{% if enable_thinking %}x{% endif %}", {"enable_thinking": False}), ("", {})):
        file = base / "chat_template.jinja"
        file.write_text((lab / "base" / "chat_template.jinja").read_text() + template)
        made = Builder(parse(values | {"model": "base", "data": values["data"] | {"own": own}}), tmp_path)
        assert made.silent == made.measuring.silent == silent
        assert not Builder(parse(values | {"model": "base"}), tmp_path).silent  # no answers are made
        other = values | {"model": "base", "data": values["data"] | {"own": own}}
        first = {"name": "first", "command": "true"}
        assert Builder(parse(other | {"prepare": [first]}), tmp_path).silent == silent
        # One that a step makes is not there yet when it is planned first.
        for makes in ({"creates": ["base/config.json"]}, {"creates": ["base"]}):
            assert not Builder(parse(other | {"prepare": [first | makes]}), tmp_path).silent
        trained = {"name": "first", "train": {"output_dir": "base"}}
        assert not Builder(parse(other | {"prepare": [trained]}), tmp_path).silent
        assert not Builder(parse(other | {"root": "base", "prepare": [first]}), tmp_path).silent
        made.datasets.add("maths", made.config.data["maths"])
        run = Run("m", "realign", "x", "safety_distill", ["maths"], {}, [], ())
        (command,) = made.plan.steps[train(made, run)].does
        assert isinstance(command, Train)
        assert command.arguments.get("enable_thinking", True) is not bool(silent)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"all": {"seed": 2}}},
        {"train": {"dpo": {"seed": 2}}, "methods": {"dpo": {}}},
        {"methods": {"paper": {"train": {"seed": 1}}}},
    ],
)
def test_several_seeds_are_not_one_and_the_same(values: dict[str, Any], tmp_path: Path, changes: Any) -> None:
    with pytest.raises(UserError, match=r"its arguments name seed \d, as those of .* do, .* use `seeds`"):
        build(parse(values | {"seeds": [1, 2]} | changes), tmp_path)
    build(parse(values | {"seeds": [1]} | changes), tmp_path)
    build(parse(values | {"seeds": [1, 2], "train": {"sft": {"seed": 2}}, "methods": {"paper": {}}}), tmp_path)


@pytest.fixture
def reading(tmp_path: Path) -> dict[str, Any]:
    """A study that reads the user's files: data sets in a file and in a folder, and one that an option names."""
    data = tmp_path / "mine"
    (data / "many").mkdir(parents=True)
    for name in ("mine/p.json", "mine/many/a.json", "mine/plain.json", "ds.json"):
        (tmp_path / name).write_text("{}")
    columns = {"prompt": "a", "chosen": "b", "rejected": "c"}
    info: dict[str, Any] = {"p": {"file_name": "p.json", "ranking": True, "columns": columns}}
    info |= {"many": {"file_name": "many", "ranking": True}, "plain": {"file_name": "plain.json"}, "other": {}}
    (data / "dataset_info.json").write_text(json.dumps(info))
    return {
        "root": "runs/it", "model": "org/base", "template": "llama3", "dataset_dir": "mine",
        "tasks": {"m": {"dataset": "plain"}}, "realign": {"pairs": "p,many"}, "methods": {"dpo": {}},
        "train": {"baseline_dpo": {"deepspeed": "ds.json"}},
    }  # fmt: skip


def changed(info: Path, **entries: Any) -> None:
    info.write_text(json.dumps(json.loads(info.read_text()) | entries))


SWAPPED = {"file_name": "p.json", "ranking": True, "columns": {"prompt": "a", "chosen": "c", "rejected": "b"}}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: changed(folder / "mine" / "dataset_info.json", p=SWAPPED), ["m-dpo-0"]),
        (lambda folder: changed(folder / "mine" / "dataset_info.json", other={"x": 1}), []),
        (lambda folder: changed(folder / "mine" / "dataset_info.json", plain={"file_name": "p.json"}), ["m"]),
        (lambda folder: (folder / "mine" / "many" / "a.json").write_text("[1]"), ["m-dpo-0"]),
        (lambda folder: (folder / "mine" / "many" / "b.json").write_text("[]"), ["m-dpo-0"]),
        (lambda folder: (folder / "ds.json").write_text("[1]"), ["m-dpo-0"]),
    ],
)
def test_a_change_of_what_a_training_reads_is_noticed(
    reading: dict[str, Any], tmp_path: Path, change: Callable[[Path], None], again: list[str]
) -> None:
    before = build(parse(reading), tmp_path).steps
    change(tmp_path)
    after = build(parse(reading), tmp_path).steps
    assert [name for name, step in after.items() if step.fingerprint != before[name].fingerprint] == again


def test_entries_that_a_step_makes_are_not_watched(reading: dict[str, Any], tmp_path: Path) -> None:
    first = {"name": "first", "command": "true", "creates": ["mine/dataset_info.json"]}
    plan = build(parse(reading | {"prepare": [first]}), tmp_path)
    assert plan.steps["m-dpo-0"].entries == ()
    assert build(parse(reading), tmp_path).steps["m-dpo-0"].entries


def test_models_that_options_name_are_watched(reading: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").touch()
    train = {"baseline_dpo": {"ref_model": "other"}}
    assert "other/config.json" in build(parse(reading | {"train": train}), tmp_path).steps["m-dpo-0"].inputs


def test_the_users_own_steps_follow_each_other(builder: Builder) -> None:
    entries = [
        Prepare(name="one", command="echo hi"),
        Prepare(name="two", train={"output_dir": "made", "stage": "sft"}, threads=3),
    ]
    assert own_steps(builder, entries, "prepare", ("before",)) == ("one", "two")
    one, two = builder.plan.steps["one"], builder.plan.steps["two"]
    assert (one.does, one.needs, one.threads, one.training) == ((Shell("echo hi"),), ("before",), 1, None)
    assert (two.needs, two.threads, two.creates) == (("before", "one"), 3, ("made",))
    given = {"train": {"output_dir": "out", "deepspeed": "a.json"}, "inputs": ["b.txt"], "creates": ["out/x.bin"]}
    for name in ("a.json", "b.txt"):
        (Path(builder.plan.cwd) / name).touch()
    own_steps(builder, [Prepare.model_validate(given | {"name": "three"})], "prepare", ())
    three = builder.plan.steps["three"]
    assert (three.inputs, three.creates) == (("b.txt", "a.json"), ("out", "out/x.bin"))
    with pytest.raises(UserError, match="expected either a command or train"):
        own_steps(builder, [Prepare(name="x")], "finish", ())
