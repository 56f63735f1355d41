"""Training curves: the loss, and the mask's statistics where they were logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.lab.records import Training
from realign_plugin.lab.report.drawing import canvas, colour, inline_svg
from realign_plugin.lab.report.run import Run, read_lines, read_object

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_POINTS: Final = 300
"""Maximum points of one curve; longer ones are thinned out."""
LINES: Final = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
"""Line styles of the seeds, in turn."""
LINE_NAMES: Final = ("solid", "dashed", "dotted", "dash-dotted")
Series = dict[int, float]
"""Values by step."""


@dataclass
class Log:
    """What one training logged.

    Attributes:
        training: The training.
        loss: Of the training set.
        eval_loss: Of the validation set.
        mean: Mean of the mask.
        kept: Share of elements whose sigmoid(logit) is above one half.
        cut_off: Whether the log's last line was cut off.
        name: What distinguishes it from the others in its picture.
        line: Style of its lines, in words.
    """

    training: Training
    loss: Series = field(default_factory=dict)
    eval_loss: Series = field(default_factory=dict)
    mean: Series = field(default_factory=dict)
    kept: Series = field(default_factory=dict)
    cut_off: bool = False
    name: str = ""
    line: str = ""


@dataclass(frozen=True)
class Curves:
    """One picture: the trainings that differ in their seeds only.

    Attributes:
        title: Their label, without the seed.
        stage: LLaMA-Factory's stage.
        logs: One a seed.
        svg: The picture.
    """

    title: str
    stage: str
    logs: list[Log]
    svg: Markup


def read_log(run: Run, training: Training) -> Log | None:
    """What a training logged, from ``trainer_log.jsonl`` and ``trainer_state.json``; None if neither is there.

    Raises:
        UserError: If one of the files is broken.
    """
    folder = run.folder / training.folder
    log, found = Log(training), False
    if (folder / "trainer_log.jsonl").is_file():
        lines, log.cut_off = read_lines(folder / "trainer_log.jsonl")
        log.loss, log.eval_loss = _series(lines, "current_steps", "loss"), _series(lines, "current_steps", "eval_loss")
        found = True
    if (folder / "trainer_state.json").is_file():
        history = read_object(folder / "trainer_state.json").get("log_history")
        lines = [line for line in history if isinstance(line, dict)] if isinstance(history, list) else []
        log.loss = log.loss or _series(lines, "step", "loss")
        log.eval_loss = log.eval_loss or _series(lines, "step", "eval_loss")
        log.mean, log.kept = _series(lines, "step", "mask/mean"), _series(lines, "step", "mask/share_above_half")
        found = True
    return log if found else None


def _series(lines: Iterable[Mapping[str, Any]], step: str, key: str) -> Series:
    """Values by step; of a step that was logged twice, as after a resume, the last."""
    found: Series = {}
    for line in lines:
        value, at = line.get(key), line.get(step)
        if isinstance(value, (int, float)) and math.isfinite(value) and isinstance(at, int):
            found[at] = float(value)
    return dict(sorted(found.items()))


def draw_curves(run: Run) -> tuple[list[Curves], list[str]]:
    """A picture for each training; seeds of the same share one.

    Returns:
        The pictures, and why trainings have none, one line each.

    Raises:
        UserError: If a log is broken.
    """
    groups: dict[tuple[str, str], list[Log]] = {}
    notes = []
    for training in run.study.trainings:
        log = read_log(run, training)
        if log is None:
            notes.append(f"{training.label}: no log in {training.folder}.")
        elif not log.loss:
            notes.append(f"{training.label}: the log in {training.folder} holds no loss.")
        else:
            logs = groups.setdefault((training.stage, training.title), [])
            log.line = LINE_NAMES[len(logs) % len(LINES)]
            log.name = f"seed {training.seed}" if training.name else training.id
            logs.append(log)
        if log is not None and log.cut_off:
            notes.append(f"{training.label}: the last line of its log is cut off; it is left out.")
    pictures = [
        Curves(title, stage, logs, _draw(logs, title, f"training-{number}"))
        for number, ((stage, title), logs) in enumerate(groups.items())
    ]
    return pictures, notes


def _draw(logs: Sequence[Log], title: str, name: str) -> Markup:
    mask = any(log.mean or log.kept for log in logs)
    shapes = {"nrows": 2, "sharex": True, "height_ratios": [3, 2]} if mask else {"nrows": 1}
    with canvas(380, 290 if mask else 210, squeeze=False, **shapes) as (figure, grid):
        loss = grid[0][0]
        for log, style in zip(logs, LINES * len(logs), strict=False):
            _line(loss, log.loss, "ink", style, 1.4)
            _line(loss, log.eval_loss, "accent", style, 1.4)
            if mask:
                _line(grid[1][0], log.mean, "role-realigned", style, 1.4)
                _line(grid[1][0], log.kept, "role-fine-tuned", style, 1.4)
        loss.set_ylabel("loss")
        loss.set_ylim(bottom=min(0.0, *(v for log in logs for v in (*log.loss.values(), *log.eval_loss.values()))))
        if mask:
            from matplotlib.ticker import PercentFormatter

            grid[1][0].set_ylabel("mask")
            grid[1][0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        for axes in grid[:, 0]:
            axes.grid(True, axis="y")
            axes.margins(x=0.02)
            axes.locator_params(axis="y", nbins=4)
        _name_ends(grid, logs)
        grid[-1][0].set_xlabel("step")
        figure.align_ylabels()
        return inline_svg(figure, name, _words(logs, title))


def _name_ends(grid: Any, logs: Sequence[Log]) -> None:
    """Label the ends of the first log's curves, so that colour is not the only cue."""
    pairs = [(grid[0][0], [(logs[0].loss, "training", "ink"), (logs[0].eval_loss, "validation", "accent")])]
    if len(grid) > 1:
        pairs.append(
            (grid[1][0], [(logs[0].mean, "mean", "role-realigned"), (logs[0].kept, "kept", "role-fine-tuned")])
        )
    for axes, curves in pairs:
        known = sorted((list(series.values())[-1], name, shade) for series, name, shade in curves if series)
        if len(known) < 2:
            continue
        low, high = axes.get_ylim()
        apart = known[1][0] - known[0][0] > 0.16 * (high - low)
        for rank, (value, name, shade) in enumerate(known):
            last = max(step for series, other, _ in curves if other == name for step in series)
            up = "center" if apart else ("top", "bottom")[rank]
            axes.annotate(
                name,
                (last, value),
                xytext=(6, 0),
                textcoords="offset pixels",
                va=up,
                fontsize=11.5,
                color=colour(shade),
                annotation_clip=False,
            )


def _line(axes: Any, series: Series, shade: str, style: Any, width: float) -> None:
    if not series:
        return
    steps = list(series)
    stride = max(1, math.ceil(len(steps) / MOST_POINTS))
    kept = sorted({*steps[::stride], steps[-1]})
    dot = {"marker": "o", "markersize": 3} if len(kept) == 1 else {}
    axes.plot(kept, [series[step] for step in kept], color=colour(shade), linestyle=style, linewidth=width, **dot)


def _words(logs: Sequence[Log], title: str) -> str:
    parts = []
    for log in logs:
        run = f"{log.name}: " if len(logs) > 1 else ""
        for name, series in (
            ("loss", log.loss),
            ("validation loss", log.eval_loss),
            ("mean of the mask", log.mean),
            ("share above one half", log.kept),
        ):
            if series:
                steps = list(series)
                ends = f"from {series[steps[0]]:.3g} at step {steps[0]} to {series[steps[-1]]:.3g} at step {steps[-1]}"
                parts.append(f"{run}{name} {ends}")
    return f"Training curves of {title}: {'; '.join(parts)}."
