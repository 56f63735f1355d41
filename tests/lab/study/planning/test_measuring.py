"""Evaluations, choices and tables of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.records import Model
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.launch import build
from realign_plugin.lab.study.planning.commands import Measure, text
from realign_plugin.lab.study.planning.measuring import Measuring
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step, TableSpec

Values = dict[str, Any]


@pytest.fixture
def measuring(values: Values, tmp_path: Path) -> Measuring:
    evaluate = {
        "tasks": "safety", "models_per_job": 2, "model_args": {"dtype": "float32"}, "metadata": {"judge": "off"},
        "agreement": False, "choose": {"tasks": "safety_catqa"},
    }  # fmt: skip
    config = parse(values | {"evaluate": evaluate})
    return Measuring(Plan(str(config.root), str(tmp_path), config.model_dump(mode="json")), config, threads=2)


def models(measuring: Measuring, *names: str) -> list[Model]:
    found = [Model(id=name, label=name, pretrained="org/base", tasks=("safety",)) for name in names]
    measuring.plan.models |= {model.id: model for model in found}
    return found


def test_a_model_is_measured_by_a_typed_command(measuring: Measuring) -> None:
    (model,) = models(measuring, "one")
    command = measuring.command(model, "results", ["safety"], {"more": 1})
    assert command == Measure(
        {"pretrained": "org/base", "peft": None, "tokenizer": "org/base", "dtype": "float32"}, ("safety",),
        "runs/it/results/one", True, {}, {"judge": "off", "more": 1},
    )  # fmt: skip
    assert "peft" not in text(command)


def test_models_share_jobs(measuring: Measuring) -> None:
    steps = measuring.evaluations(models(measuring, "a", "b", "c"))
    assert steps == {"a": "evaluate-a", "b": "evaluate-a", "c": "evaluate-c"}
    step = measuring.plan.steps["evaluate-a"]
    assert (len(step.does), step.together, step.threads) == (2, True, 2)
    assert step.creates == ("runs/it/results/a", "runs/it/results/b")


def test_a_choice_has_its_facts_and_one_model_for_each_strength(measuring: Measuring) -> None:
    measuring.plan.add(Step("merge", "merge", "merge", ()))
    measuring.choice("maths", "my_resta", "RESTA", "merge", {0.1: "folder1", 0.5: "folder5"})
    row = measuring.plan.models["maths-my_resta"]
    assert (row.method, row.step, row.tasks) == ("my_resta", "choose-maths-my_resta", ("safety",))
    assert row.choice == "runs/it/choices/maths-my_resta.json"
    assert measuring.plan.choices["maths-my_resta"] == {"maths-my_resta-s0.1": 0.1, "maths-my_resta-s0.5": 0.5}
    measuring.choices()
    tried = [step for step in measuring.plan.steps.values() if step.kind == "validate"]
    commands = [command for step in tried for command in step.does]
    assert [c.model_args["pretrained"] for c in commands if isinstance(c, Measure)] == ["folder1", "folder5"]
    assert {c.tasks for c in commands if isinstance(c, Measure)} == {("safety_catqa",)}
    assert measuring.plan.steps["choose-maths-my_resta"].needs == tuple(step.name for step in tried)


def test_a_table_is_made_again_when_its_words_change(measuring: Measuring) -> None:
    models(measuring, "a")
    spec = TableSpec("t", "T", "Shows.", ("a",))
    first = measuring.plan.steps[measuring.table(spec, ())]
    measuring.plan.steps.clear()
    other = measuring.plan.steps[measuring.table(TableSpec("t", "T", "Shows more.", ("a",)), ())]
    assert first.fingerprint != other.fingerprint
    assert first.commands == other.commands


@pytest.mark.parametrize("changed", ["tok/tokenizer.json", "judge/config.json", "ref/more/samples_safety_1.jsonl"])
def test_what_an_evaluation_names_besides_its_model_is_watched(values: Values, tmp_path: Path, changed: str) -> None:
    files = [
        tmp_path / name for name in ("tok/tokenizer.json", "judge/config.json", "ref/more/samples_safety_1.jsonl")
    ]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    metadata = {"judge": "local", "judge_model": "judge", "reference": "ref"}
    evaluate = {"tasks": "safety", "model_args": {"tokenizer": "tok"}, "metadata": metadata}

    def fingerprints() -> tuple[str, ...]:
        return build(parse(values | {"evaluate": evaluate}), tmp_path).steps["evaluate-maths"].fingerprints

    before = fingerprints()
    (tmp_path / changed).write_text("{}")
    after = fingerprints()
    assert before[0] not in after
    assert set(before) & set(after)  # what an earlier version wrote, which did not watch it
