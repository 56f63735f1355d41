"""Commands on lm-eval's samples and results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_plugin.files import try_folder, write_json
from realign_plugin.outputs import check_files


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


def compare(
    results: Annotated[list[str], typer.Argument(help="lm-eval results files or output folders, or NAME=PATH.")],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.md, .json and .png.")] = None,
) -> None:
    """Compare lm-eval results: safety, skill, differences with their intervals."""
    from realign_plugin.evaluation.compare import compare as side_by_side
    from realign_plugin.evaluation.compare import write
    from realign_plugin.evaluation.report import print_comparison

    if out is not None:
        try_folder(out)
    comparison = side_by_side(results)
    print_comparison(comparison)
    if out is not None:
        typer.echo("Saved as " + ", ".join(str(file) for file in write(comparison, out)) + ".")


def tasks_path() -> None:
    """Print the folder of the lm-eval tasks, for ``lm_eval --include_path``."""
    from realign_plugin.evaluation.task_names import tasks_folder

    typer.echo(tasks_folder())
