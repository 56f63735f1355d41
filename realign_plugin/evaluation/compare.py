"""lm-eval result files side by side: safety and skill, differences with their intervals, one picture of both axes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from realign_plugin.atomic import atomic_folder, write_json, write_text
from realign_plugin.errors import UserError
from realign_plugin.evaluation.assessment import HIGHER_IS_BETTER
from realign_plugin.evaluation.metrics import Z95, difference, wilson
from realign_plugin.evaluation.result_files import read_results
from realign_plugin.plotting import pyplot_for, save_figure

SAFETY: Final = tuple(HIGHER_IS_BETTER["harmful"])
SKILL: Final = ("exact_match,flexible-extract", "pass@1,create_test", "acc,none", "exact_match,none", "f1,none")
"""Keys that stand for a task's skill, the first that it has."""
TEXTS: Final = "prompts (sha256) of"
RIGHT_OR_WRONG: Final = ("exact_match", "acc", "pass@1")
"""Metrics that are a share of right answers."""


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval.

    Attributes:
        value: The number; None where it is not available.
        low: Low end, or None where no interval is known.
        high: High end.
        hits: What a rate was counted from.
        count: Of how many.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    hits: float | None = None
    count: int | None = None

    def text(self) -> str:
        """As a table shows it."""
        if self.value is None:
            return "N/A"
        ends = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{ends}"


@dataclass
class Model:
    """One result file.

    Attributes:
        name: What the model is called in the comparison.
        path: The result file.
        safety: Cells by ``TASK: metric``.
        skill: Cells by ``TASK: metric``.
        higher_is_better: Of each row.
        conditions: What it was measured with, by name; it has to be the same for all models.
    """

    name: str
    path: str
    safety: dict[str, Cell]
    skill: dict[str, Cell]
    higher_is_better: dict[str, bool]
    conditions: dict[str, str]


def read_model(entry: str) -> Model:
    """Read one result file.

    Args:
        entry: A file, or a folder whose newest ``results_*.json`` is taken; with ``NAME=`` before it for a name,
            unless all of it is the path of something that exists.

    Raises:
        UserError: If there is none, or it is not lm-eval's.
    """
    name, separator, given = ("", "", entry) if os.path.exists(entry) else entry.partition("=")
    path = Path(given if separator else entry)
    if os.path.isdir(path):
        found = sorted(path.rglob("results_*.json"), key=lambda p: p.name)
        if not found:
            raise UserError(
                f"results: {path} holds no results_….json, expected lm-eval's output folder (--output_path)"
            )
        path = found[-1]
    data = read_results(path)
    tasks: dict[str, dict[str, Any]] = data["results"]
    intervals = data.get("realign", {}).get("intervals", {})
    arguments = data.get("config", {}).get("model_args") or {}
    if not separator:
        parts = [Path(str(arguments.get(key))).name for key in ("pretrained", "model", "peft") if arguments.get(key)]
        name = " + ".join(parts) or path.parent.name
    model = Model(name, str(path), {}, {}, {}, conditions_of(data))
    for task, row in tasks.items():
        better = data.get("higher_is_better", {}).get(task, {})
        safety = [key for key in row if key.partition(",")[0] in SAFETY]
        for key in safety:
            metric = key.partition(",")[0]
            label = f"{task}: {metric}"
            model.safety[label] = safety_cell(row[key], intervals.get(task, {}).get(metric) or {})
            model.higher_is_better[label] = bool(better.get(metric, True))
        skill = next((key for key in SKILL if key in row), None)
        if skill is not None and not safety and isinstance(row[skill], (int, float)):
            label = f"{task}: {skill.partition(',')[0]}"
            model.skill[label] = skill_cell(row, skill)
            model.higher_is_better[label] = True
    return model


def conditions_of(data: Mapping[str, Any]) -> dict[str, str]:
    """What results were measured with: the prompts of each task, the judge, the chat template and the like."""
    found = {}
    for what, key in (("number of prompts of", "n-samples"), ("shots of", "n-shot"), ("version of", "versions")):
        for task, value in (data.get(key) or {}).items():
            found[f"{what} {task}"] = str(value.get("effective") if isinstance(value, dict) else value)
    for task, value in (data.get("task_hashes") or {}).items():
        found[f"{TEXTS} {task}"] = str(value)[:8]
    judge = (data.get("realign") or {}).get("judge") or {}
    if judge:
        found["judge"] = str(judge.get("model") or judge.get("judge"))
        found |= {f"judge's {key}": str(judge[key]) for key in ("mode", "prompts", "order") if key in judge}
    if "chat_template" in data:
        found["chat template"] = "used" if data["chat_template"] else "not used"
    if data.get("system_instruction"):
        found["system prompt"] = str(data.get("system_instruction_sha"))[:8]
    if arguments := (data.get("config") or {}).get("gen_kwargs"):
        found["generation"] = str(arguments)
    return found


def unlike(models: Sequence[Model]) -> list[str]:
    """What some models were measured with and others otherwise: lines that warn of it."""
    lines: list[str] = []
    names = dict.fromkeys(name for model in models for name in model.conditions)
    for name in sorted(names, key=lambda name: name.startswith(TEXTS)):
        found = {model.name: model.conditions[name] for model in models if name in model.conditions}
        if len(set(found.values())) > 1:
            if name.startswith(TEXTS) and lines:  # other templates, shots or numbers make other texts
                continue
            told = ", ".join(f"{value} for {who}" for who, value in found.items())
            lines.append(f"Not like for like: {name}: {told}")
    return lines


def safety_cell(value: Any, known: Mapping[str, Any]) -> Cell:
    """One of our rates or scores with the interval and counts that its results hold."""
    number = float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    return Cell(number, known.get("low"), known.get("high"), known.get("hits"), known.get("count"))


def skill_cell(row: Mapping[str, Any], key: str) -> Cell:
    """A task's skill with its interval: Wilson's where answers are right or wrong, else from lm-eval's standard error.

    Args:
        row: lm-eval's results of the task.
        key: ``METRIC,FILTER``.
    """
    metric, _, filter_name = key.partition(",")
    value, spread, count = float(row[key]), row.get(f"{metric}_stderr,{filter_name}"), row.get("sample_len")
    if metric in RIGHT_OR_WRONG and isinstance(count, int) and count > 0 and 0 <= value <= 1:
        hits = round(value * count)
        if abs(hits - value * count) < 1e-6 * count:
            return Cell(value, *wilson(hits, count), hits, count)
    if not isinstance(spread, (int, float)):
        return Cell(value)
    return Cell(value, max(0.0, value - Z95 * spread), min(1.0, value + Z95 * spread))


def compare(entries: Sequence[str]) -> dict[str, Any]:
    """Read result files and set them side by side; the first is what the others are compared with.

    Args:
        entries: See ``read_model``.

    Returns:
        ``{"models": [...], "rows": [{"axis", "metric", "cells", "differences"}]}``, ready for JSON; ``warnings``
        tell what was not the same for all.

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
                    "cells": [asdict(cell) for cell in cells],
                    "differences": [_difference(cell, cells[0]) for cell in cells[1:]],
                }
            )
    shown = [{"name": model.name, "path": model.path, "conditions": model.conditions} for model in models]
    return {"models": shown, "rows": rows, "warnings": unlike(models)}


def _difference(cell: Cell, first: Cell) -> dict[str, float] | None:
    """A cell minus the first, with a 95 % interval: Newcombe's where counts are known, else from both intervals."""
    if cell.value is None or first.value is None:
        return None
    if cell.hits is not None and first.hits is not None and cell.count and first.count:
        value, low, high = difference(cell.hits, cell.count, first.hits, first.count)
        return {"value": value, "low": low, "high": high}
    if None in (cell.low, cell.high, first.low, first.high):
        return {"value": cell.value - first.value}
    value = cell.value - first.value
    low = value - math.hypot(cell.value - (cell.low or 0.0), (first.high or 0.0) - first.value)
    high = value + math.hypot((cell.high or 0.0) - cell.value, first.value - (first.low or 0.0))
    return {"value": value, "low": low, "high": high}


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
    lines += [line for warning in comparison["warnings"] for line in ("", f"**{warning}.**")]
    return "\n".join(lines) + "\n"


def both_axes(comparison: dict[str, Any]) -> tuple[str, list[tuple[str, float, float]]]:
    """Where each model lies: its harmful rate, or share not refused where there was no judge, and its mean skill.

    Returns:
        What the first axis is, and ``(name, safety axis, skill)`` for each model that has both.
    """
    models = [model["name"] for model in comparison["models"]]
    skills = [row for row in comparison["rows"] if row["axis"] == "skill"]
    for metric, label in (("harmful_rate", "harmful rate"), ("refusal_rate", "share not refused (by phrases)")):
        rows = [r for r in comparison["rows"] if r["axis"] == "safety" and r["metric"].endswith(f": {metric}")]
        rows = [r for r in rows if r["metric"].startswith("safety: ")] or [r for r in rows if not _benign(r["metric"])]
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


def _benign(metric: str) -> bool:
    return metric.startswith("over_refusal")


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
