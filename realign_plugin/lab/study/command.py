"""The command ``realign study``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.study import launch
from realign_plugin.lab.study.display import show_plan
from realign_plugin.lab.study.processors import limits, processors


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        config: The study's YAML file.
        overrides: ``key=value`` on top of it.
        targets: What is wanted.
        again: Steps to run once more.
        cores: Processor cores to use at a time; None: all.
        jobs: Trainings and evaluations at a time; None: the configuration's GPUs say, or one.
        profile: snakemake's profile: a name of ours or a folder.
        keep_going: Whether to go on with what does not depend on a step that failed.
        dry_run: Whether to show what would run, and run nothing.
        plan_only: Whether to write the plan, and run nothing.
        snakefile: Whether to print the workflow's path.
    """

    config: Path | None
    overrides: tuple[str, ...]
    targets: tuple[str, ...]
    again: tuple[str, ...]
    cores: int | None
    jobs: int | None
    profile: str | None
    keep_going: bool
    dry_run: bool
    plan_only: bool
    snakefile: bool


def run(asked: Request) -> None:
    """Plan a study and run it, or show what would run.

    Raises:
        UserError: For the first mistake, or if a step fails.
    """
    if asked.snakefile:
        typer.echo(launch.SNAKEFILE)
        return
    if asked.config is None:
        raise UserError("CONFIG: is missing, expected the study's YAML file; see examples/study")
    profile = launch.profile_folder(asked.profile) if asked.profile else None
    there = processors(asked.cores, asked.jobs, profile)
    plan = launch.make_plan(asked.config, asked.overrides, there)
    for name in asked.targets:
        check_choice("--target", name, plan.targets)
    launch.check_again(plan, asked.targets, asked.again)
    if asked.dry_run:
        show_plan(plan, asked.targets, asked.again)
        return
    if asked.plan_only:
        if asked.again:
            raise UserError("--again: cannot be combined with --plan-only, expected one; snakemake has --forcerun")
        launch.plan_only(plan)
        typer.echo(f"{plan.root}/plan.json: {len(plan.steps)} steps")
        return
    options = ["--profile", str(profile)] if profile else []
    options += ["--cores", str(asked.cores or "all")] if asked.cores or not profile else []
    options += limits(asked.jobs, profile)
    launch.start(plan, asked.targets, options + (["--keep-going"] if asked.keep_going else []), asked.again)
    launch.finish(plan, asked.targets)
