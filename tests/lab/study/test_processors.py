from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.config.study import Machine
from realign_plugin.lab.study.launch import PROFILES, build, profile_folder, start
from realign_plugin.lab.study.processors import Processors, limits, processors
from tests.lab.study.test_run import plan_of, step_of


@pytest.mark.parametrize(
    ("cores", "jobs", "machine", "threads"),
    [
        (8, None, {}, 8),
        (8, 3, {}, 2),
        (2, 5, {}, 1),
        (16, None, {"gpus": 4, "gpus_per_training": 1, "gpus_per_evaluation": 1}, 4),
        (16, None, {"gpus": 4, "gpus_per_training": 2, "gpus_per_evaluation": 2}, 8),
        (16, 1, {"gpus": 4, "gpus_per_training": 1}, 16),
    ],
)
def test_steps_share_the_cores(cores: int, jobs: int | None, machine: dict[str, int], threads: int) -> None:
    assert Processors(cores, jobs).share(Machine.model_validate(machine)) == threads


def test_trainings_and_evaluations_get_their_share_unless_the_file_says_otherwise(
    values: dict[str, Any], tmp_path: Path
) -> None:
    train = {"model_name_or_path": "x", "output_dir": "made"}
    values["prepare"] = [{"name": "own", "train": train}, {"name": "word", "command": "true"}]
    for machine, expected in (
        ({}, {"maths": 4, "evaluate-base": 4, "merge-maths-resta": 4, "own": 4}),
        ({"threads": 1, "evaluation_threads": 3}, {"maths": 1, "evaluate-base": 3, "own": 1}),
    ):
        plan = build(parse(values | {"machine": machine}), tmp_path, Processors(8, 2))
        assert {name: plan.steps[name].threads for name in expected} == expected
        assert plan.steps["word"].threads == plan.steps["table-main"].threads == 1


def test_the_number_of_threads_makes_nothing_run_again(values: dict[str, Any], tmp_path: Path) -> None:
    one, four = (build(parse(values), tmp_path, Processors(cores)).steps["maths"] for cores in (1, 4))
    assert (one.threads, four.threads) == (1, 4)
    assert one.fingerprint == four.fingerprint


def test_a_machine_that_is_not_this_one_says_nothing() -> None:
    here = len(os.sched_getaffinity(0))
    assert processors(None, None, None).cores == here
    assert processors(None, None, PROFILES / "local").cores == here
    assert processors(None, None, PROFILES / "slurm").cores == 1
    assert processors(6, None, PROFILES / "slurm").cores == 6


def test_more_jobs_than_cores_are_refused() -> None:
    with pytest.raises(UserError, match="--jobs: 4 with 2 cores, expected at most 2"):
        processors(2, 4, None)
    assert processors(4, 4, None).jobs == 4
    assert processors(None, 40, PROFILES / "slurm").jobs == 40


def test_a_profiles_resources_stay(tmp_path: Path) -> None:
    assert limits(None, PROFILES / "gpus") == []
    assert limits(3, None) == limits(3, PROFILES / "local") == ["--resources", "long=3"]
    assert limits(3, PROFILES / "gpus") == ["--resources", "gpu=4", "long=3"]
    (tmp_path / "config.yaml").write_text("resources: {gpu: 2, mem_mb: 4000}\n")
    assert limits(3, tmp_path) == ["--resources", "gpu=2", "mem_mb=4000", "long=3"]


def test_no_more_jobs_run_at_a_time(tmp_path: Path) -> None:
    alone = ("sh", "-c", "mkdir root/alone && sleep 1 && rmdir root/alone")
    plan = plan_of(tmp_path, *(step_of(name, "evaluate", name, (alone,), together=True) for name in ("one", "two")))
    plan.targets |= {"main": ["one", "two"], "all": ["one", "two"]}
    start(plan, ["main"], ["--cores", "4", *limits(1, None)])
    assert all(plan.done(name) for name in plan.targets["main"])


def test_the_option_reaches_the_plan(
    values: dict[str, Any], planned: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    from realign_plugin.lab.study.command import Request, run
    from realign_plugin.lab.study.planning.plan import Plan

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("realign_plugin.lab.study.launch.check", lambda config: None)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    asked = Request(
        tmp_path / "study.yaml", (), ("main",), (), 8, 4, None,
        keep_going=False, dry_run=False, plan_only=True, snakefile=False,
    )  # fmt: skip
    run(asked)
    file = tmp_path / "runs/it/plan.json"
    assert Plan.load(file).steps["maths"].threads == 2
    given: list[Any] = []
    monkeypatch.setattr("realign_plugin.lab.study.launch.start", lambda *words: given.extend(words))
    monkeypatch.setattr("realign_plugin.lab.study.launch.finish", lambda *_: None)
    run(replace(asked, plan_only=False))
    assert given[2] == ["--cores", "8", "--resources", "long=4"]
    text = file.read_text()
    file.write_text(text.replace('"kind": "baseline"', '"kind": "rival"'))  # as an earlier version wrote it
    assert file.read_text() != text
    kinds = {step.kind for step in Plan.load(file).steps.values()}
    assert "baseline" in kinds
    assert "rival" not in kinds


@pytest.mark.parametrize("line", ["  rival: {runtime: 720}", "  - rival=4", "rival: 4"])
def test_a_profile_with_a_former_name_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.yaml").write_text(f"executor: slurm\nset-resources:\n{line}\n")
    with pytest.raises(UserError, match="names the rule 'rival', expected 'baseline'"):
        profile_folder(str(tmp_path))
    (tmp_path / "config.yaml").write_text("executor: slurm\nset-threads:\n  - baseline=4\n")
    assert profile_folder(str(tmp_path)) == tmp_path
