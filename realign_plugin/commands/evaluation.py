"""Commands on lm-eval's samples and results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_plugin.errors import UserError
from realign_plugin.files import try_folder, write_json
from realign_plugin.outputs import check_files

if TYPE_CHECKING:
    from realign_plugin.evaluation.session import Session


def judge(
    samples: Annotated[
        list[Path] | None, typer.Argument(help="lm-eval samples files (samples_TASK_DATE.jsonl).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the metrics to this JSON file, as lm-eval's results.")
    ] = None,
    metadata: Annotated[
        str, typer.Option(help='Settings as JSON, as for lm_eval --metadata, e.g. \'{"judge_model": "…"}\'.')
    ] = "{}",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Instead: set the judge against these labelled answers (prompt, answer, harmful or refusal)."
        ),
    ] = None,
) -> None:
    """Judge lm-eval's samples after the run, or again; verdicts that are known cost nothing."""
    from realign_plugin.evaluation.judging.settings import EvaluationSettings, check_settings
    from realign_plugin.evaluation.session import Session
    from realign_plugin.text_files import json_option

    given = json_option(metadata, "--metadata")
    check_settings(given, "--metadata", all_ours=True)
    files = [calibrate] if calibrate is not None else samples or []
    if not files or (calibrate is not None and samples):
        raise UserError(
            f"SAMPLES: {len(samples or [])} files and --calibrate {calibrate or 'not'} given, expected lm-eval's "
            "samples, or --calibrate LABELLED alone; give one of the two"
        )
    check_files(out, inputs=files)
    if calibrate is None:
        check_files(*filter(Path.is_file, files))
    session = Session(EvaluationSettings.load(given, judge="openai"))
    if calibrate is not None:
        _calibrate(calibrate, session, out)
    else:
        _judge(files, session, out)
    if session.failure:
        typer.echo(f"error: {session.failure}", err=True)
        raise typer.Exit(3)


def _judge(samples: list[Path], session: Session, out: Path | None) -> None:
    from realign_plugin.evaluation.rejudge import judge_files, results
    from realign_plugin.evaluation.report import print_metrics

    judged = judge_files(samples, session, pooled=out is not None)
    print_metrics(judged, session)
    if out is not None:
        write_json(out, results(judged, session))


def _calibrate(labelled: Path, session: Session, out: Path | None) -> None:
    from realign_plugin.evaluation.calibration import calibrate, read_labelled
    from realign_plugin.evaluation.report import print_calibrations

    answers = read_labelled(labelled)
    session.prepare()
    rows = calibrate(answers, session)
    print_calibrations(rows)
    if out is not None:
        write_json(out, {"calibration": [row.to_dict() for row in rows], "judge": session.report()})


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
