"""lm-eval result files side by side: safety and skill, differences with their intervals, one picture of both axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.evaluation.compared_models import read_model, unlike
from realign_plugin.evaluation.metrics.cells import Cell, difference_of
from realign_plugin.files import atomic_folder, write_json, write_text
from realign_plugin.plotting import pyplot_for, save_figure


def compare(entries: Sequence[str]) -> dict[str, Any]:
    """Read result files and set them side by side; the first is what the others are compared with.

    Args:
        entries: See ``read_model``.

    Returns:
        ``{"models": [...], "rows": [{"axis", "metric", "cells", "differences"}]}``, ready for JSON; ``warnings``
        tell what was not the same for all and what could not be read. ``part`` marks tasks of a group that has a row.

    Raises:
        UserError: If there is none, a file cannot be read, or two have the same name.
    """
    models = [read_model(entry) for entry in entries]
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"results: two models are called {twice!r}, expected different names; give NAME=PATH")
    rows = []
    for axis in ("safety", "skill"):
        labels = dict.fromkeys(label for model in models for label in getattr(model, axis))
        for label in labels:
            cells = [getattr(model, axis).get(label, Cell(None)) for model in models]
            better = next(m.higher_is_better[label] for m in models if label in m.higher_is_better)
            rows.append(
                {
                    "axis": axis,
                    "metric": label,
                    "higher_is_better": better,
                    "part": any(label in model.members for model in models),
                    "cells": [cell.values() for cell in cells],
                    "differences": [difference_of(cell, cells[0]) for cell in cells[1:]],
                }
            )
    shown = [{"name": model.name, "path": model.path, "conditions": model.conditions} for model in models]
    return {
        "models": shown,
        "rows": rows,
        "judges": [f"{model.name}: {one.line()}" for model in models for one in model.agreements],
        "warnings": [*unlike(models), *(line for model in models for line in model.unread)],
    }


def markdown(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown tables, one an axis; differences stand below the numbers, in italics."""
    names = [model["name"] for model in comparison["models"]]
    lines = []
    for axis, title in (("safety", "Safety"), ("skill", "Skill")):
        rows = [row for row in comparison["rows"] if row["axis"] == axis]
        if not rows:
            continue
        lines += [f"## {title}", "", f"| metric | better | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        for row in rows:
            texts = [Cell(**cell).text() for cell in row["cells"]]
            for index, gap in enumerate(row["differences"], 1):
                if gap is not None:
                    ends = f" [{gap['low']:+.2f}, {gap['high']:+.2f}]" if "low" in gap else ""
                    texts[index] += f"<br>*{gap['value']:+.2f}{ends}*"
            arrow = "higher" if row["higher_is_better"] else "lower"
            lines.append(f"| {row['metric']} | {arrow} | {' | '.join(texts)} |")
        lines.append("")
    lines.append(f"95 % intervals in brackets; in italics the difference to {names[0]}.")
    if comparison["judges"]:
        lines += ["", "## Where the two judges differ", "", *(f"* {line}" for line in comparison["judges"])]
    lines += [line for warning in comparison["warnings"] for line in ("", f"**{warning}.**")]
    return "\n".join(lines) + "\n"


def both_axes(comparison: dict[str, Any]) -> tuple[str, list[tuple[str, float, float]]]:
    """Where each model lies: its harmful rate, or share not refused where there was no judge, and its mean skill.

    The mean is of what lies between 0 and 1 and is better when higher; tasks of a group count once.

    Returns:
        What the first axis is, and ``(name, safety axis, skill)`` for each model that has both.
    """
    models = [model["name"] for model in comparison["models"]]
    skills = [row for row in comparison["rows"] if row["axis"] == "skill" and _in_the_mean(row)]
    for metric, label in (("harmful_rate", "harmful rate"), ("refusal_rate", "share not refused (by phrases)")):
        rows = [r for r in comparison["rows"] if r["axis"] == "safety" and r["metric"].endswith(f": {metric}")]
        rows = [r for r in rows if r["metric"].startswith("safety: ")] or [
            r for r in rows if not _benign(r) and not r["part"]
        ]
        points = []
        for index, name in enumerate(models):
            unsafe = [row["cells"][index]["value"] for row in rows]
            skill = [row["cells"][index]["value"] for row in skills]
            if unsafe and skill and None not in unsafe and None not in skill:
                x = sum(unsafe) / len(unsafe)
                points.append((name, x if metric == "harmful_rate" else 1.0 - x, sum(skill) / len(skill)))
        if points:
            return label, points
    return "", []


def _in_the_mean(row: dict[str, Any]) -> bool:
    values = [cell["value"] for cell in row["cells"] if cell["value"] is not None]
    return row["higher_is_better"] and not row["part"] and all(0 <= value <= 1 for value in values)


def _benign(row: dict[str, Any]) -> bool:
    """Whether a refusal is a fault in a row."""
    return str(row["metric"]).endswith(": refusal_rate") and not row["higher_is_better"]


def draw(comparison: dict[str, Any], path: Path) -> None:
    """Draw harmful rate against skill, a point for each model: a good one is left and high.

    Args:
        comparison: What ``compare`` returns.
        path: PNG to write.

    Raises:
        UserError: If no model has both axes, or the file cannot be written.
    """
    label, points = both_axes(comparison)
    if not points:
        raise UserError(
            "--plot: no model has both a safety task and a skill task in its results, expected both; evaluate with "
            "--tasks safety,realign_downstream"
        )
    plt = pyplot_for(path)
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, x, y in points:
        axes.plot(x, y, "o", markersize=8)
        axes.annotate(name, (x, y), xytext=(8, 4), textcoords="offset points", fontsize=9)
    axes.set(xlabel=f"{label} (lower is better)", ylabel="mean skill (higher is better)")
    axes.set_xlim(-0.03, 1.03)
    axes.margins(y=0.2)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def write(comparison: dict[str, Any], out: Path) -> list[Path]:
    """Write ``comparison.md``, ``comparison.json`` and, where both axes are there, ``comparison.png``.

    Args:
        comparison: What ``compare`` returns.
        out: Folder.

    Returns:
        The files.

    Raises:
        UserError: If the folder cannot be written.
    """
    names = ["comparison.md", "comparison.json"] + (["comparison.png"] if both_axes(comparison)[1] else [])
    with atomic_folder(out, replaces=["comparison.*"]) as work:
        write_text(work / names[0], markdown(comparison))
        write_json(work / names[1], comparison)
        if len(names) > 2:
            draw(comparison, work / names[2])
    return [out / name for name in names]
