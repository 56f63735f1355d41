"""The tables of a study, from lm-eval's result files: JSON for the report, Markdown to read.

python -m realign_plugin.lab.study.tables PLAN NAME
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation.metrics.cells import Cell, skill_key
from realign_plugin.evaluation.result_files import Results, newest
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.records import Axis, Choice, Column, Described, Model, Row, Table
from realign_plugin.lab.study.config.measuring import ColumnSection
from realign_plugin.lab.study.planning import references
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import TableSpec
from realign_plugin.text_files import checked, read_json

METRICS: Final = {
    "harmful_rate": "harmful",
    "refusal_rate": "refused",
    "agreement": "agrees",
    "judged_refusal_rate": "refused (judge)",
    "preference_score": "preference",
    "strongreject_score": "StrongREJECT",
    "judge_kappa": "judges' kappa",
    "incoherent_rate": "incoherent",
}
"""Our metrics that are shown, and what the tables call them."""
NO_RESULT: Final = "not measured: no result file"


def results_of(folder: Path) -> Results | None:
    """The newest results below a folder; None if there are none.

    Raises:
        UserError: If the file is not lm-eval's.
    """
    file = newest(folder)
    return None if file is None else Results.read(file)


def columns_of(found: Iterable[Results], asked: Iterable[str], detail: bool = False) -> list[Column]:
    """The columns that results give."""
    everything = list(found)
    columns: dict[tuple[str, str], Column] = {}
    for name in dict.fromkeys(asked):
        for results in everything:
            leaves = results.leaves(name)
            alike = len({results.higher.get(leaf, {}).get("refusal_rate") for leaf in leaves}) <= 1
            whole = [name] if alike and _metrics(results.tasks.get(name, {})) else leaves
            for task in leaves if detail else whole:
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
    known = [results.higher.get(leaf, {}).get("refusal_rate") for leaf in (task, *results.leaves(task))]
    benign = False in known if any(one is not None for one in known) else task.startswith("over_refusal")
    axis: Axis = "skill" if metric not in METRICS else "over-refusal" if benign else "safety"
    plain = task.removeprefix("realign_").replace("over_refusal", "over-refusal").replace("_", " ")
    label = f"{plain}: {METRICS[metric]}" if metric in METRICS else plain
    if metric in ("incoherent_rate", "judge_kappa"):
        axis = "other"
    return Column.of(task, metric, label, axis, "lower" if results.better(task, metric) is False else "higher")


def columns_asked(plan: Plan) -> list[Column]:
    """The columns that the configuration asks for."""
    return [ColumnSection.model_validate(column).column() for column in plan.config["evaluate"]["columns"]]


def make(plan: Plan, spec: TableSpec) -> Table:
    """A table.

    Raises:
        UserError: If no row has a result.
    """
    models = [plan.models[name] for name in spec.models]
    found = {model.id: results_of(plan.folder / spec.results / model.id) for model in models}
    have = [results for results in found.values() if results is not None]
    if not have:
        raise UserError(f"{spec.name}: no model of the table has results in {spec.results}, expected some")
    asked = spec.tasks or [task for model in models for task in model.tasks]
    columns = columns_asked(plan) or columns_of(have, asked, spec.detail)
    return Table(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        columns=columns,
        rows=[_row(plan, model, found[model.id], columns) for model in models],
        seeds=plan.config["seeds"],
        versions=versions(),
        config=plan.config,
    )


def _row(plan: Plan, model: Model, results: Results | None, columns: list[Column]) -> Row:
    cells = {}
    for column in columns:
        if column.metric == references.METRIC and model == references.reference_model(plan.models):
            cells[column.key] = Cell(reason=references.ITSELF)
        else:
            cells[column.key] = results.cell(column.task, column.metric) if results else Cell(reason=NO_RESULT)
    facts = {name: getattr(model, name) for name in Described.model_fields}
    if model.choice is None:
        return Row(model=model.id, cells=cells, **facts)
    file = Path(plan.cwd) / model.choice
    read = read_json(file, "choice", "what `realign study` chose", "run the study again")
    choice = checked(Choice, read, f"choice: {file}", "run the study again")
    label = f"{model.label} ({choice.strength:g})"
    return Row(model=model.id, cells=cells, choice=choice, **(facts | {"label": label}))


def markdown(table: Table, groups: Mapping[str, str]) -> str:
    """A table in Markdown; reasons of empty cells stand below it."""
    lines = [f"## {table.title}", "", table.description, ""]
    arrows = {"lower": " ↓", "higher": " ↑", None: ""}
    heads = [column.label + arrows[column.better] for column in table.columns]
    lines += ["| group | model | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    notes: dict[str, int] = {}
    for row in table.rows:
        texts = []
        for cell in (row.cell(column.key) for column in table.columns):
            mark = f" ({notes.setdefault(cell.reason, len(notes) + 1)})" if cell.reason else ""
            texts.append(cell.text() + mark)
        lines.append(f"| {groups.get(row.group, row.group)} | {row.label} | " + " | ".join(texts) + " |")
    lines += ["", "95 % intervals in brackets; the arrow points to the better side."]
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
    write_json(files[0], table.model_dump())
    write_text(files[1], markdown(table, plan.groups))
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one table."""
    path, name = arguments or sys.argv[1:]
    for file in write(Plan.load(Path(path)), name):
        print(file)


if __name__ == "__main__":
    main()
