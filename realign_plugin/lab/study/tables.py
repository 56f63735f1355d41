"""The tables of a study, from lm-eval's result files: JSON for the report, Markdown to read.

python -m realign_plugin.lab.study.tables PLAN NAME
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from typing_extensions import TypedDict

from realign_plugin.errors import UserError
from realign_plugin.evaluation import result_files
from realign_plugin.evaluation.cells import Cell, safety_cell, skill_cell, skill_key
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.study import references
from realign_plugin.lab.study.measuring_config import Column
from realign_plugin.lab.study.plan import Plan
from realign_plugin.lab.study.steps import Model, TableSpec
from realign_plugin.text_files import checked, read_json

METRICS: Final = {
    "harmful_rate": "harmful",
    "refusal_rate": "refused",
    "agreement": "agrees",
    "judged_refusal_rate": "refused (judge)",
    "preference_score": "preference",
    "incoherent_rate": "incoherent",
}
"""Our metrics that are shown, and what the tables call them."""
NOT_ASKED: Final = "not measured: {task} is not among this model's tasks"
NO_RESULT: Final = "not measured: no result file"


class Choice(TypedDict):
    """``choices/ROW.json``, as far as it is read again."""

    strength: float


@dataclass(frozen=True)
class Results:
    """What lm-eval found for one model.

    Attributes:
        tasks: Metrics by task and group.
        intervals: Ours, by task and metric.
        higher: By task and metric, whether more is better.
        members: Tasks of each group.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    intervals: Mapping[str, Mapping[str, Mapping[str, Any]]]
    higher: Mapping[str, Mapping[str, bool]]
    members: Mapping[str, Sequence[str]]

    def leaves(self, name: str) -> list[str]:
        """The tasks of a group, or the task itself."""
        below = self.members.get(name) or []
        return [leaf for child in below for leaf in self.leaves(child)] if below else [name]

    def cell(self, task: str, metric: str) -> tuple[Cell, str]:
        """A number with its interval, and why there is none."""
        row = self.tasks.get(task)
        if row is None:
            return Cell(None), NOT_ASKED.format(task=task)
        key = next((k for k in row if k.partition(",")[0] == metric), None)
        if key is None:
            return Cell(None), f"no {metric} in lm-eval's results of {task}"
        known = self.intervals.get(task, {}).get(metric)
        if known is not None or metric in METRICS:
            return safety_cell(row[key], known or {}), str((known or {}).get("not_available", "no verdict"))
        return (skill_cell(row, key), "") if isinstance(row[key], (int, float)) else (Cell(None), f"{row[key]}")


def read_results(folder: Path) -> Results | None:
    """The newest result file below a folder; None if there is none.

    Raises:
        UserError: If it is not lm-eval's.
    """
    files = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    if not files:
        return None
    found = result_files.read_results(files[-1])
    return Results(
        found["results"],
        found.get("realign", {}).get("intervals", {}),
        found.get("higher_is_better", {}),
        found.get("group_subtasks", {}),
    )


def columns_of(found: Iterable[Results], asked: Iterable[str], detail: bool = False) -> list[Column]:
    """The columns that results give.

    Args:
        found: Results of all models.
        asked: lm-eval tasks and groups that were asked for.
        detail: Whether groups are shown set by set.
    """
    everything = list(found)
    columns: dict[tuple[str, str], Column] = {}
    for name in dict.fromkeys(asked):
        for results in everything:
            whole = [name] if _metrics(results.tasks.get(name, {})) else results.leaves(name)
            for task in results.leaves(name) if detail else whole:
                for metric in _metrics(results.tasks.get(task, {})):
                    columns.setdefault((task, metric), _column(results, task, metric))
    return list(columns.values())


def _metrics(row: Mapping[str, Any]) -> list[str]:
    names = {key.partition(",")[0]: key for key in row}
    ours = [metric for metric in METRICS if metric in names]
    if ours:
        return ours
    skill = skill_key(row)
    return [skill.partition(",")[0]] if skill is not None else []


def _column(results: Results, task: str, metric: str) -> Column:
    benign = task.startswith("over_refusal")
    higher = results.higher.get(task, {}).get(metric)
    if higher is None:
        higher = next(
            (results.higher[leaf][metric] for leaf in results.leaves(task) if metric in results.higher.get(leaf, {})),
            True,
        )
    axis = "skill" if metric not in METRICS else "over-refusal" if benign else "safety"
    plain = task.removeprefix("realign_").replace("over_refusal", "over-refusal").replace("_", " ")
    label = f"{plain}: {METRICS[metric]}" if metric in METRICS else plain
    return Column(
        task=task, metric=metric, label=label, axis="other" if metric == "incoherent_rate" else axis,  # type: ignore[arg-type]
        better="higher" if higher else "lower",
    )  # fmt: skip


def key(column: Column) -> str:
    """What a column's cells are called."""
    return f"{column.task}.{column.metric}"


def make(plan: Plan, spec: TableSpec) -> dict[str, Any]:
    """A table, ready for JSON.

    Args:
        plan: The plan.
        spec: The table.

    Raises:
        UserError: If no row has a result.
    """
    models = [plan.models[name] for name in spec.models]
    found = {model.id: read_results(plan.folder / spec.results / model.id) for model in models}
    have = [results for results in found.values() if results is not None]
    if not have:
        raise UserError(f"{spec.name}: no model of the table has results in {spec.results}, expected some")
    asked = spec.tasks or [task for model in models for task in model.tasks]
    given = [Column.model_validate(column) for column in plan.config["evaluate"]["columns"]]
    columns = given or columns_of(have, asked, spec.detail)
    rows = [_row(plan, model, found[model.id], columns) for model in models]
    return {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "columns": [{"key": key(column), **column.model_dump()} for column in columns],
        "rows": rows,
        "seeds": plan.config["seeds"],
        "versions": versions(),
        "config": plan.config,
    }


def _row(plan: Plan, model: Model, results: Results | None, columns: list[Column]) -> dict[str, Any]:
    cells = {}
    for column in columns:
        cell, reason = results.cell(column.task, column.metric) if results else (Cell(None), NO_RESULT)
        if column.metric == references.METRIC and model == references.reference_model(plan.models):
            cell, reason = Cell(None), references.ITSELF
        cells[key(column)] = asdict(cell) | ({"reason": reason} if cell.value is None else {})
    row = {name: getattr(model, name) for name in ("label", "group", "role", "method", "seed", "subspace")}
    if model.choice is not None:
        file = Path(plan.cwd) / model.choice
        chosen = read_json(file, "choice", "what `realign study` chose", "run the study again")
        strength = checked(Choice, chosen, f"choice: {file}", "run the study again")["strength"]
        row |= {"label": f"{model.label} ({strength:g})", "choice": chosen}
    return {"model": model.id, **row, "cells": cells}


def markdown(table: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    """A table in Markdown; reasons of empty cells stand below it."""
    columns = table["columns"]
    lines = [f"## {table['title']}", "", table["description"], ""]
    heads = [column["label"] + {"lower": " ↓", "higher": " ↑", None: ""}[column["better"]] for column in columns]
    lines += ["| group | model | " + " | ".join(heads) + " |", "|---" * (len(columns) + 2) + "|"]
    notes: dict[str, int] = {}
    for row in table["rows"]:
        texts = []
        for column in columns:
            cell = dict(row["cells"][column["key"]])
            reason = cell.pop("reason", None)
            mark = f" ({notes.setdefault(reason, len(notes) + 1)})" if reason else ""
            texts.append(Cell(**cell).text() + mark)
        lines.append(f"| {groups.get(row['group'], row['group'])} | {row['label']} | " + " | ".join(texts) + " |")
    lines += ["", "95 % intervals in brackets; the arrow says which way is better."]
    lines += [f"({number}) {reason}" for reason, number in notes.items()]
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib import metadata

    found = {}
    for name in ("realign-plugin", "torch", "transformers", "peft", "llamafactory", "mergekit", "lm-eval", "datasets"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(plan: Plan, name: str) -> list[Path]:
    """Make a table and write ``tables/NAME.json`` and ``tables/NAME.md``.

    Raises:
        UserError: If the plan has no such table, or it has no results.
    """
    if name not in plan.tables:
        raise UserError(f"tables: {name!r} is unknown, expected one of {', '.join(plan.tables)}")
    spec = plan.tables[name]
    table = make(plan, replace(spec, models=tuple(m for m in spec.models if m in plan.models)))
    files = [plan.folder / "tables" / f"{name}.{suffix}" for suffix in ("json", "md")]
    write_json(files[0], table)
    write_text(files[1], markdown(table, plan.groups))
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one table."""
    path, name = arguments or sys.argv[1:]
    for file in write(Plan.load(Path(path)), name):
        print(file)


if __name__ == "__main__":
    main()
