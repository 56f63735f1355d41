"""The plan's file, whatever became of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.files import write_json
from realign_plugin.lab.records import Study, Training
from realign_plugin.lab.study.display import show_plan, show_table
from realign_plugin.lab.study.launch import describe
from realign_plugin.lab.study.planning.commands import Line
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step
from tests.mutations import mutated, refusal, save

MARKER = {"commands": [], "seconds": 1.0, "log": "x"}
SHAPE = {"name": "main", "title": "[red]T[/red]", "columns": [{"key": "a", "label": ":bug:", "axis": "skill"}]}


def test_a_plan_comes_back_as_it_was(planned: Callable[..., Plan], values: dict[str, Any], tmp_path: Path) -> None:
    methods = values["methods"] | {"distill": {}, "interpolation": {"strengths": [0.5, 0.25]}}
    realign = {"pairs": "pairs", "safety": "answers", "skill": "maths"}
    options = {"limit": 3, "batch_size": 4, "device": "cpu"}
    evaluate = {"tasks": "safety", "options": options, "choose": {"tasks": "safety"}, "metadata": {"z": 1, "a": 2}}
    fusion = {"methods": {"ties": {"options": {"ties_density": 0.3, "task_weight": 0.5}}}}
    plan = planned(values, methods=methods, realign=realign, evaluate=evaluate, fusion=fusion)
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read == plan
    # Markers hold the fingerprints of the plan that was read: a difference would make everything run again.
    assert {n: s.fingerprint for n, s in read.steps.items()} == {n: s.fingerprint for n, s in plan.steps.items()}


def test_malformed_plans_are_read_or_refused_in_one_line(
    planned: Callable[..., Plan], values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(values).save(tmp_path / "plan.json")
    sound, draw, messages = json.loads((tmp_path / "plan.json").read_text()), random.Random(7), []

    def read() -> None:
        plan = Plan.load(tmp_path / "p.json")
        show_plan(plan, list(plan.targets)[:1])

    for _ in range(120):
        text = mutated(sound, draw)
        save(tmp_path / "p.json", text, draw)
        messages.append(refusal(read, text))
        capsys.readouterr()
    assert not [message for message in messages if message and "\n" in message]
    assert 15 < messages.count(None) < 105


def test_a_table_is_shown_as_it_is_or_refused(
    planned: Callable[..., Plan], values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(values)
    (plan.folder / "tables").mkdir(parents=True)
    file = plan.folder / "tables" / "main.json"
    row = {"model": "m", "label": "[/x] m", "cells": {"a": {"value": 0.5, "reason": None}}}
    file.write_text(json.dumps(SHAPE | {"rows": [row]}))
    show_table(plan, "main")
    out = capsys.readouterr().out
    assert "[red]T[/red]" in out
    assert ":bug:" in out
    assert "[/x] m" in out
    assert "0.50" in out
    file.write_text(json.dumps(SHAPE | {"rows": [5]}))
    with pytest.raises(UserError, match=r"main.json: rows.0 is '5', expected"):
        show_table(plan, "main")


def test_the_report_is_told_what_there_is(values: dict[str, Any], planned: Callable[..., Plan]) -> None:
    told = describe(planned(values, seeds=2))
    assert Study.model_validate_json(told.model_dump_json()) == told
    assert told.tables == ["main", "sets"]
    assert told.outdated == {"main": "main", "sets": "main"}
    assert {"results/maths-paper-1-soft", "results/base"} <= set(told.results)
    assert told.data == ["answers", "pairs", "maths", "code", *told.data[4:]]
    models = {model.id: model for model in told.models}
    soft = models["maths-paper-1-soft"]
    assert (soft.role, soft.subspace, soft.seed) == ("realigned", "models/maths-paper-1", 1)
    assert (soft.label, soft.name, soft.title) == (
        "realigned (soft), seed 1", "realigned (soft)", "realigned (soft), seed 1",
    )  # fmt: skip
    assert models["maths-paper-0-soft"].title == "realigned (soft), seed 0"
    assert models["maths-resta"].title == "RESTA (0.5)"
    trainings = {training.id: training for training in told.trainings}
    assert trainings["maths-paper-1"] == Training(
        id="maths-paper-1", label="maths-paper-1: masked DPO", name="maths-paper: masked DPO",
        folder="models/maths-paper-1", stage="mask_dpo", seed=1,
    )  # fmt: skip
    assert trainings["maths-sft_dpo-0-1-sft"].title == "maths-sft_dpo-1-sft: SFT"
    assert (trainings["maths"].title, trainings["maths"].seed) == ("maths: fine-tuning", None)


def test_the_fingerprint_of_an_earlier_version_is_that_of_the_same_step() -> None:
    def table(module: str, role: str) -> Step:
        line = Line(("python", "-m", module, "run/plan.json", "main"))
        return Step("table-main", "table", "main", (line,), texts={"rows.json": json.dumps({"t-sft": ["SFT", role]})})

    step = table("realign_plugin.lab.study.tables", "baseline")
    assert step.fingerprint == step.fingerprints[0]
    for module in ("realign_plugin.lab.study.tables", "realign_plugin.study.tables"):
        assert table(module, "rival").fingerprint in step.fingerprints
    assert table("realign_plugin.lab.study.tables", "realigned").fingerprint not in step.fingerprints


def test_a_choice_needs_the_models_that_it_picks_from(
    planned: Callable[..., Plan], values: dict[str, Any], tmp_path: Path
) -> None:
    evaluate = {"tasks": "safety", "choose": {"tasks": "safety_catqa"}}
    plan = planned(values, methods={"resta": {"strengths": [0.1, 0.5]}}, evaluate=evaluate)
    for step in plan.wanted(["main"]):
        for path in step.creates:
            (tmp_path / path).mkdir(parents=True)
        write_json(plan.marker(step.name), MARKER | {"fingerprint": step.fingerprint})
    chosen, row = (tmp_path / "runs/it/models" / name for name in ("maths-resta-s0.1", "maths-resta"))
    row.rmdir()
    row.symlink_to(chosen.name)
    told = describe(plan)
    assert told.outdated == {}
    assert {"results-choose/maths-resta-s0.1", "results/maths-resta"} <= set(told.results)
    again = ["evaluate-maths-resta"]
    assert "merge-maths-resta" not in [step.name for step, _ in plan.stale(["main"], again)]
    chosen.rmdir()
    assert "merge-maths-resta" in [step.name for step, _ in plan.stale(["main"], again)]
