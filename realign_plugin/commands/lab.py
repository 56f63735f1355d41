"""Commands of the lab: whole repairs and studies, their cost and their report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_plugin.commands.options import Overwrite

PKU = "PKU-Alignment/PKU-SafeRLHF-30K"


def repair(
    base: Annotated[str, typer.Argument(help="Base model, a chat model: a folder or a hub id.")],
    adapter: Annotated[Path, typer.Argument(help="LoRA adapter of the fine-tuned model.")],
    aligned: Annotated[
        Path | None, typer.Option(help="LoRA adapter of the aligned model; none: the base model is aligned.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="Harmful prompts: a file or hub id; may be repeated.", show_default=PKU)
    ] = None,
    benign: Annotated[
        list[str] | None,
        typer.Option(help="Harmless prompts that sound dangerous; may be repeated.", show_default="232 of our own"),
    ] = None,
    skill: Annotated[
        list[str] | None, typer.Option(help="Rows of the new skill (a task, a file), or its prompts alone.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Harmful prompts to measure with; none: some of --prompts.")
    ] = None,
    test_benign: Annotated[
        list[str] | None, typer.Option(help="Harmless prompts to measure with; none: some of --benign.")
    ] = None,
    test_skill: Annotated[
        list[str] | None, typer.Option(help="Rows of the skill to measure with; none: some of --skill.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the repaired adapter, the table and the report.")] = Path(
        "repaired"
    ),
    budget: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "standard",
    method: Annotated[str, typer.Option(help="auto (the best on validation prompts), masks or lora.")] = "auto",
    template: Annotated[
        str | None, typer.Option(help="LLaMA-Factory's chat template; default: detected from the tokenizer.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Model that judges the answers, at OPENAI_BASE_URL; none: refusals by phrases.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the choice of prompts and of the trainings.")
    ] = 0,
    write_study: Annotated[
        Path | None, typer.Option(help="Write the repair as a study to this YAML file, and do nothing else.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Repair a fine-tuned adapter: prompts in, a plain LoRA adapter out, measured before and after. Resumes."""
    from realign_plugin.lab.repair import command

    request = command.Request(
        base, adapter, out, aligned=aligned, prompts=prompts, benign=benign, skill=skill, test=test,
        test_benign=test_benign, test_skill=test_skill, budget=budget, method=method,
        template=template, judge=judge, seed=seed, write_study=write_study, overwrite=overwrite,
    )  # fmt: skip
    command.repair(request)


def study(
    config: Annotated[Path | None, typer.Argument(help="The study's YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE on top of it, e.g. seeds=3.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="main, an ablation's name, or all; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would run, and run nothing.")] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="Processor cores to use at a time; default: all.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings and evaluations at a time, which share the cores; default: 1.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="local, gpus, slurm, or a folder with snakemake's config.yaml.")
    ] = None,
    again: Annotated[
        list[str] | None, typer.Option(help="A step to run once more, as -n names it, with all that needs it.")
    ] = None,
    keep_going: Annotated[bool, typer.Option(help="Go on with what does not depend on a step that failed.")] = False,
    plan_only: Annotated[bool, typer.Option(help="Write plan.json and study.json, and run nothing.")] = False,
    snakefile: Annotated[bool, typer.Option(help="Print the workflow's path, for snakemake itself.")] = False,
) -> None:
    """Run a whole study: align, fine-tune, realign, fuse, measure, compare; done steps are not run again."""
    from realign_plugin.lab.study.command import Request, run
    from realign_plugin.lab.study.stopping import Stopped, stoppable

    asked = Request(
        config, tuple(overrides or ()), tuple(target or ["main"]), tuple(again or ()), cores, jobs, profile,
        keep_going=keep_going, dry_run=dry_run, plan_only=plan_only, snakefile=snakefile,
    )  # fmt: skip
    try:
        with stoppable():
            run(asked)
    except Stopped as stopped:
        typer.echo(f"study: {stopped}; the same command goes on", err=True)
        raise typer.Exit(stopped.exit_code) from stopped


def estimate(
    config: Annotated[Path, typer.Argument(help="YAML file of a training or a study.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE on top of it.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Of a study: main, an ablation's name, or all.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that a training would be spread over.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Estimate what a training or a study will cost, before it runs: memory, disk, judge calls."""
    from realign_plugin.lab.estimate.run import estimate as tell

    tell(config, overrides or [], target or [], processes, json)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `realign study` wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default: RUN/report.html.")] = None,
) -> None:
    """Write one self-contained HTML page of a study: before and after, tables, charts, commands, limits."""
    from realign_plugin.lab.report.page import write_report

    typer.echo(f"Saved as {write_report(run, out)}.")
