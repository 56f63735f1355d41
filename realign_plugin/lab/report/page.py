"""Renders the page and writes it, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from realign_plugin import __version__
from realign_plugin.errors import UserError
from realign_plugin.files import write_text
from realign_plugin.outputs import check_files

if TYPE_CHECKING:
    from jinja2 import Environment

    from realign_plugin.lab.report.run import Run

FILE_NAME: Final = "report.html"
UPRIGHT_COLUMNS: Final = 8
"""Maximum columns of a table printed in portrait."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write a run's report: one HTML file that needs no network and no script.

    Args:
        folder: The run folder, as ``realign study`` writes it.
        out: The file; None stands for ``report.html`` in the run folder.

    Returns:
        The file.

    Raises:
        UserError: If the folder is not a run, a file in it is broken, the page cannot be written, or a library is
            missing.
    """
    target = out or folder / FILE_NAME
    if target.is_dir():
        raise UserError(f"--out: {target} is a folder, expected a file to write; give {target / FILE_NAME}")
    if target.suffix.lower() not in (".html", ".htm") and target.exists():
        raise UserError(f"--out: {target} exists and is not an HTML page, expected a file to write; give another path")
    if out is not None or folder.is_dir():
        check_files(target)
    environment = _environment()
    from realign_plugin.lab.report.run import read_run
    from realign_plugin.lab.texts import UNWRITABLE

    text = environment.get_template("report.html.j2").render(contents(read_run(folder)))
    write_text(target, UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text))
    return target


def _environment() -> Environment:
    try:
        import pydantic  # noqa: F401 - read_run needs it, and says so less plainly
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UserError(
            f"report: {error.name} is not installed, expected it for the page; pip install 'realign-plugin[study]'"
        ) from error
    from realign_plugin.lab.report import drawing, headline, numbers

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": numbers.percent,
        "short": numbers.short,
        "fixed": lambda value: numbers.number(value, share=True),
        "points": numbers.points,
        "duration": numbers.duration,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "measure_text": headline.measure_text,
        "role_name": drawing.role_name,
        "role_text": lambda name: "fused realigned" if name == "fused-realigned" else name,
    }
    return environment


def contents(run: Run) -> Mapping[str, Any]:
    """What the template shows.

    Raises:
        UserError: If a log is broken, or matplotlib is missing.
    """
    from realign_plugin.lab.report.cards import judge_cards
    from realign_plugin.lab.report.curves import draw_curves
    from realign_plugin.lab.report.drawing import HEAT_STEPS
    from realign_plugin.lab.report.grids import grid
    from realign_plugin.lab.report.headline import comparisons, sentence
    from realign_plugin.lab.report.heat_maps import draw_heat_maps
    from realign_plugin.lab.report.limits import limits
    from realign_plugin.lab.report.scatter import Scatter, draw_scatter

    found = comparisons(run.main) if run.main else []
    judges = judge_cards(run.judges, run.study.judging)
    curves, curve_notes = draw_curves(run)
    return {
        "study": run.study,
        "version": __version__,
        "comparisons": found,
        "sentence": run.study.summary or (sentence(found) if found else None),
        "scatter": draw_scatter(run.main) if run.main else Scatter(),
        "grids": [grid(table) for table in run.tables],
        "wide": any(len(table.columns) > UPRIGHT_COLUMNS for table in run.tables),
        "missing_tables": run.missing_tables,
        "outdated": run.outdated,
        "heat": draw_heat_maps(run),
        "heat_steps": HEAT_STEPS,
        "curves": curves,
        "curve_notes": curve_notes,
        "judges": judges,
        "cards": run.cards,
        "commands": run.commands,
        "seconds": sum(command.seconds or 0.0 for command in run.commands),
        "limits": limits(run, judges, found),
    }
