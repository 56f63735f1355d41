"""The command ``realign``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from realign_plugin import __version__
from realign_plugin.data.commands import app as data_app
from realign_plugin.errors import UserError
from realign_plugin.files import try_folder, write_json
from realign_plugin.outputs import check_adapter_folder, check_files

app = typer.Typer(
    help="Repairs the safety of a fine-tuned LLM: train with llamafactory-cli, then export, inspect and check here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

PKU = "PKU-Alignment/PKU-SafeRLHF-30K"
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another adapter or model that is in OUT.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Repairs the safety of a fine-tuned LLM: train with llamafactory-cli, then export, inspect and check here."""


@app.command()
def export(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace.")],
    out: Annotated[Path, typer.Argument(help="Folder for the plain LoRA adapter.")],
    mask: Annotated[
        str | None, typer.Option(help="soft, binary, sampled or relaxed; default: the one it was trained for.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Threshold of the binary mask.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampled and the relaxed mask.")] = None,
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    overwrite: Overwrite = False,
) -> None:
    """Write a plain LoRA adapter that any LoRA consumer loads."""
    from realign_plugin.subspace.subspace import SafetySubspace
    from realign_plugin.subspace.tensor_files import torch_dtype

    check_adapter_folder(out, [adapter], overwrite=overwrite)
    number_type = torch_dtype(dtype)
    subspace = SafetySubspace.load(adapter)
    subspace.to_lora(out, mask, threshold, seed, number_type)
    typer.echo(f"{out}: LoRA adapter, {len(subspace.logits)} modules, mask {mask or subspace.spec.mask}, {dtype}")


@app.command()
def transfer(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace, in LoRA space.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new safety subspace.")],
    task_adapter: Annotated[
        Path, typer.Option(help="LoRA adapter of the other task, fine-tuned from the same aligned model.")
    ],
    task_weight: Annotated[float | None, typer.Option(help="Weight of its task vector (lambda).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put a learned mask on another task's vector, without training (the paper's transfer study)."""
    from realign_plugin.subspace.subspace import SafetySubspace
    from realign_plugin.subspace.transfer import transfer as moved

    check_adapter_folder(out, [adapter, task_adapter], overwrite=overwrite)
    subspace = moved(SafetySubspace.load(adapter), task_adapter, task_weight, "--task-adapter")
    subspace.save(out)
    typer.echo(f"{out}: the mask of {adapter} on {task_adapter}, {len(subspace.logits)} modules")


@app.command()
def fuse(
    out: Annotated[Path, typer.Argument(help="Folder for the plain LoRA adapter.")],
    tasks: Annotated[list[Path], typer.Argument(help="LoRA adapters of the fine-tuned models, one or more.")],
    aligned: Annotated[
        Path | None, typer.Option(help="LoRA adapter of the aligned model; none: the base model is aligned.")
    ] = None,
    method: Annotated[str, typer.Option(help="task_arithmetic, average, ties or dare.")] = "task_arithmetic",
    task_weight: Annotated[
        str | None, typer.Option(help="Lambda, or one for each task with commas; default: the fusion's.")
    ] = None,
    ties_density: Annotated[float, typer.Option(help="Share of elements that TIES keeps.")] = 0.2,
    dare_drop_rate: Annotated[float, typer.Option(help="Share of elements that DARE drops.")] = 0.2,
    fusion_seed: Annotated[int, typer.Option(help="Seed of DARE.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fuse fine-tuned adapters plainly, without realignment: what mask_dpo with the same options starts from."""
    from realign_plugin.subspace.fusing import plain_fusion
    from realign_plugin.subspace.task_vectors import parse_task_weights

    check_adapter_folder(out, [*tasks, aligned], overwrite=overwrite)
    weights = parse_task_weights(task_weight, "--task-weight")
    subspace = plain_fusion(
        aligned, tasks, task_weight=weights, fusion_method=method, ties_density=ties_density,
        dare_drop_rate=dare_drop_rate, fusion_seed=fusion_seed,
    )  # fmt: skip
    subspace.to_lora(out)
    typer.echo(f"{out}: LoRA adapter, {len(tasks)} task vectors fused by {method}, nothing realigned")


@app.command()
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
    method: Annotated[str, typer.Option(help="auto (what validates best), masks or lora.")] = "auto",
    template: Annotated[
        str | None, typer.Option(help="LLaMA-Factory's chat template; default: found from the tokenizer.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Model that judges the answers, at OPENAI_BASE_URL; none: by phrases.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of prompts and the trainings.")] = 0,
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


@app.command()
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


@app.command()
def estimate(
    config: Annotated[Path, typer.Argument(help="YAML file of a training or a study.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE on top of it.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Of a study: main, an ablation's name, or all.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that a training would be spread over.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell what a training or a study will cost, before it runs: memory, disk, judge calls."""
    from realign_plugin.lab.estimate.run import estimate as tell

    tell(config, overrides or [], target or [], processes, json)


@app.command()
def inspect(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace.")],
    mask: Annotated[str | None, typer.Option(help="Mask for the norms after masking; default: its own.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw share kept, layers by modules, to this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what the mask keeps of each module."""
    from realign_plugin.subspace.inspection import draw_heat_map, inspect_subspace, print_table, to_json
    from realign_plugin.subspace.subspace import SafetySubspace

    check_files(plot)
    subspace = SafetySubspace.load(adapter)
    rows = inspect_subspace(subspace, mask)
    if plot is not None:
        draw_heat_map(rows, plot)
    if json:
        typer.echo(to_json(subspace, rows))
        return
    print_table(subspace, rows, mask)
    if plot is not None:
        typer.echo(f"Drawn to {plot}.")


@app.command()
def judge(
    samples: Annotated[list[Path], typer.Argument(help="lm-eval samples files (samples_TASK_DATE.jsonl).")],
    out: Annotated[
        Path | None, typer.Option(help="Write the metrics to this JSON file, as lm-eval's results.")
    ] = None,
    metadata: Annotated[
        str, typer.Option(help='Settings as JSON, as for lm_eval --metadata, e.g. \'{"judge_model": "…"}\'.')
    ] = "{}",
) -> None:
    """Judge lm-eval's samples after the run, or again; verdicts that are known cost nothing."""
    from realign_plugin.evaluation.rejudge import judge_samples, results
    from realign_plugin.evaluation.report import print_metrics
    from realign_plugin.evaluation.session import Session
    from realign_plugin.evaluation.settings import EvaluationSettings
    from realign_plugin.text_files import json_option

    given = json_option(metadata, "--metadata")
    check_files(out, inputs=samples)
    check_files(*filter(Path.is_file, samples))
    session = Session(EvaluationSettings.load({"judge": "openai"} | given))
    session.prepare()
    judged = [judge_samples(file, session) for file in samples]
    print_metrics(judged, session)
    if out is not None:
        write_json(out, results(judged, session))
    if session.failure:
        typer.echo(f"error: {session.failure}", err=True)
        raise typer.Exit(3)


@app.command()
def compare(
    results: Annotated[list[str], typer.Argument(help="lm-eval results files or output folders, or NAME=PATH.")],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.md, .json and .png.")] = None,
) -> None:
    """Set lm-eval results side by side: safety, skill, differences with their intervals."""
    from realign_plugin.evaluation.compare import compare as side_by_side
    from realign_plugin.evaluation.compare import write
    from realign_plugin.evaluation.report import print_comparison

    if out is not None:
        try_folder(out)
    comparison = side_by_side(results)
    print_comparison(comparison)
    if out is not None:
        typer.echo("Saved as " + ", ".join(str(file) for file in write(comparison, out)) + ".")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `realign study` wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default: RUN/report.html.")] = None,
) -> None:
    """Write one self-contained HTML page of a study: before and after, tables, charts, commands, limits."""
    from realign_plugin.lab.report.page import write_report

    typer.echo(f"Saved as {write_report(run, out)}.")


@app.command()
def doctor() -> None:
    """Print each host, its version, and whether the plugin is attached to it."""
    from realign_plugin.doctor import print_diagnosis

    raise typer.Exit(0 if print_diagnosis() else 1)


@app.command("tasks-path")
def tasks_path() -> None:
    """Print the folder of the lm-eval tasks, for ``lm_eval --include_path``."""
    from realign_plugin.evaluation.task_names import tasks_folder

    typer.echo(tasks_folder())


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; a user's mistake gets one line and exit code 2."""
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not word or (word.startswith("--") and word.endswith("=")):
                raise UserError(
                    f"{word or repr(word)}: an argument is empty, expected none; is a shell variable unset?"
                )
        return app(arguments, standalone_mode=True)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
