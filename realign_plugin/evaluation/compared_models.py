"""lm-eval's results files as they are compared: safety, skill, and what both were measured with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation.metrics.agreement import Agreement, agreements
from realign_plugin.evaluation.metrics.cells import Cell, metric_keys, number, safety_cell, skill_cell, skill_key
from realign_plugin.evaluation.result_files import OURS, Results, newest_of_one

TEXTS: Final = "prompts (sha256) of"
JUDGE: Final = ("guard", "policy", "mode", "prompts", "order")
"""What makes a judge's verdicts comparable, next to its model."""


@dataclass
class Model:
    """One results file.

    Attributes:
        name: What the model is called in the comparison.
        path: The results file.
        safety: Cells by ``TASK: metric``.
        skill: Cells by ``TASK: metric``.
        higher_is_better: Of each row.
        members: Rows of the tasks that are part of a group with a number of its own.
        conditions: What it was measured with, by name; it has to be the same for all models.
        unread: Lines that name what the file holds and the comparison lacks.
        agreements: Where its two judges agree and differ, by task.
    """

    name: str
    path: str
    safety: dict[str, Cell] = field(default_factory=dict)
    skill: dict[str, Cell] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    conditions: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)


def read_model(entry: str) -> Model:
    """Read one results file.

    Args:
        entry: A file, or a folder whose newest ``results_*.json`` is taken; with ``NAME=`` before it for a name.

    Raises:
        UserError: If there is none, it is not lm-eval's, or the folder holds several models'.
    """
    given_name, separator, given = entry.partition("=")
    if not separator or os.path.exists(entry):  # which, unlike pathlib, takes a name that is too long
        given_name, given = "", entry
    path = _file(Path(given))
    results = Results.read(path)
    model = Model(given_name or _name(results.data, path), str(path), conditions=conditions_of(results))
    for task, row in results.tasks.items():
        ours = [key for key in row if key.partition(",")[0] in OURS]
        for key in ours:
            metric = key.partition(",")[0]
            label = f"{task}: {metric}"
            model.safety[label] = safety_cell(row[key], results.interval(task, metric))
            model.higher_is_better[label] = results.better(task, metric) is not False
        if not ours:
            _add_skill(model, task, row, results)
    model.members = _members(model, results.members)
    model.agreements = agreements(results.judge)
    return model


def _file(path: Path) -> Path:
    if not os.path.isdir(path):
        return path
    found = newest_of_one("results", path.rglob("results_*.json"))
    if found is None:
        raise UserError(f"results: {path} holds no results_….json, expected lm-eval's output folder (--output_path)")
    return found


def _name(data: Mapping[str, Any], path: Path) -> str:
    known = data.get("config", {}).get("model_args", {})
    parts = [Path(str(known[key])).name for key in ("pretrained", "model", "peft") if known.get(key)]
    return " + ".join(parts) or path.parent.name


def _add_skill(model: Model, task: str, row: Mapping[str, Any], results: Results) -> None:
    """Add a task that is not one of ours, by its first metric and filter; note why where that is not a number."""
    key, group = skill_key(row), task in results.members
    if key is None:
        if not group:
            model.unread.append(f"{task} of {model.name} has no metric in the results, so it is not compared")
        return
    metric = key.partition(",")[0]
    if metric == "bypass":
        model.unread.append(f"{task} of {model.name} holds answers alone (--predict_only), so it is not compared")
        return
    if number(row[key]) is None:
        if not group or str(row[key]).strip():
            model.unread.append(f"{task} of {model.name}: {key} is {row[key]!r:.40}, expected a number")
        return
    filters = [other for other in metric_keys(row) if other.partition(",")[0] == metric]
    label = f"{task}: {key if len(filters) > 1 else metric}"
    model.skill[label] = skill_cell(row, key)
    better = results.better(task, metric)
    model.higher_is_better[label] = better is not False
    if better is None:
        model.unread.append(f"{task} of {model.name} does not say whether more {metric} is better; taken to be")


def _members(model: Model, subtasks: Mapping[str, Any]) -> set[str]:
    """Rows of tasks below a group that has a number of its own, of the same metric for safety; they would count twice.

    A group's rates are pooled metric by metric, so that it may have one and lack another.
    """
    found: set[str] = set()
    for table in (model.safety, model.skill):
        for label in table:
            group, _, metric = label.partition(": ")
            inside = _below(group, subtasks)
            parts = ((other, other.partition(": ")) for other in table)
            found |= {o for o, (task, _, own) in parts if task in inside and (own == metric or table is model.skill)}
    return found


def _below(group: str, subtasks: Mapping[str, Any]) -> set[str]:
    children = subtasks.get(group, ())
    return {*children, *(name for child in children for name in _below(child, subtasks))}


def conditions_of(results: Results) -> dict[str, str]:
    """What results were measured with: the prompts of each task, the judge, the chat template and the like.

    What a file says it was measured without is ``none``; what it does not speak of is left out. So is a missing
    reference: it changes none of the numbers that a run without one has.
    """
    found, data, judge = {}, results.data, results.judge
    for what, key in (("number of prompts of", "n-samples"), ("shots of", "n-shot"), ("version of", "versions")):
        for task, value in data.get(key, {}).items():
            found[f"{what} {task}"] = str(value.get("effective") if isinstance(value, dict) else value)
    for task, value in data.get("task_hashes", {}).items():
        found[f"{TEXTS} {task}"] = str(value)[:8]
    for task, value in data.get("realign", {}).get("references", {}).items():
        found[f"reference (sha256) of {task}"] = value[:8]
    if judge:
        found["judge"] = str(judge.get("model") or judge.get("judge"))
        found |= {f"judge's {key}": str(judge[key]) for key in JUDGE if key in judge}
        if judge.get("judge") != "off":
            found |= {"judge's guard": str(judge.get("guard", "none")), "second judge": "none"}
        second = judge.get("second")
        if isinstance(second, Mapping):
            found["second judge"] = str(second.get("model") or second.get("judge"))
            found |= {f"second judge's {key}": str(second[key]) for key in JUDGE if key in second}
    if "chat_template" in data:
        found["chat template"] = "used" if data["chat_template"] else "not used"
    if {"system_instruction", "chat_template"} & data.keys():  # lm-eval writes both
        given = data.get("system_instruction")
        found["system prompt"] = str(data.get("system_instruction_sha"))[:8] if given else "none"
    config = data.get("config", {})
    if "gen_kwargs" in config:
        found["generation"] = str(config["gen_kwargs"] or "none")
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
