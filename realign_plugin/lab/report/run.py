"""Reads the run folder of a study: what must be there, and what may be missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from realign_plugin.errors import UserError
from realign_plugin.evaluation.result_files import Results
from realign_plugin.evaluation.result_files import newest as newest_of
from realign_plugin.lab.records import Command, Study, Table
from realign_plugin.lab.report.data_cards import DataCard
from realign_plugin.text_files import Broken, checked, json_lines, kind_of, read_json, read_text, text_lines

R = TypeVar("R", bound=BaseModel)
CARD: Final = ".card.json"
RUN_AGAIN: Final = "run the step that writes it again"


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder: Where it is.
        study: ``study.json``.
        tables: The tables that are there, in the study's order.
        missing_tables: Names of those that are not.
        commands: In the order in which they were run.
        cards: Data cards, by file name.
        judges: lm-eval's ``realign.judge`` records, by the results file's path within the run folder.
    """

    folder: Path
    study: Study
    tables: list[Table] = field(default_factory=list)
    missing_tables: list[str] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    cards: list[DataCard] = field(default_factory=list)
    judges: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def outdated(self) -> dict[str, str]:
        """Tables of an earlier configuration that no longer hold, each with its target."""
        earlier = {table.name for table in self.tables if table.config != self.study.config}
        return {name: target for name, target in self.study.outdated.items() if name in earlier}

    @property
    def main(self) -> Table | None:
        """The study's first table; None where it is missing: an ablation must not take its place."""
        first = self.study.tables[0] if self.study.tables else None
        return self.tables[0] if self.tables and first not in self.missing_tables else None


def read_run(folder: Path) -> Run:
    """Read a run folder; subspaces and trainings are read later, one at a time.

    Raises:
        UserError: If it is not a run folder, or a file in it is broken; what is merely missing is left out.
    """
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise UserError(f"RUN: {folder} {what}, expected the folder that `realign study` wrote; check the path")
    if not (folder / "study.json").is_file():
        raise UserError(
            f"RUN: {folder} holds no study.json, expected the folder of a study; `realign study` writes it"
        )
    study = read_record(Study, folder / "study.json")
    run = Run(folder, study)
    for name in study.tables:
        path = folder / "tables" / f"{name}.json"
        if path.is_file():
            run.tables.append(_with_facts(read_record(Table, path), study))
        else:
            run.missing_tables.append(name)
    commands = folder / "commands.jsonl"
    if commands.is_file():
        lines, _ = read_lines(commands)
        run.commands = [_record(Command, line, commands) for line in lines]
    cards = sorted((folder / "data").glob(f"*{CARD}"))
    known = [path for path in cards if not study.data or path.name.removesuffix(CARD) in study.data]
    run.cards = [read_record(DataCard, path) for path in known]
    for path in _newest_results(folder, study):
        if judge := Results.read(path).judge:
            run.judges[path.relative_to(folder).as_posix()] = judge
    return run


def _with_facts(table: Table, study: Study) -> Table:
    """A table with what the study knows of its models, though an earlier version wrote it."""
    models = {model.id: model for model in study.models}
    rows = [
        row.model_copy(update={"name": model.name, "fusion": model.fusion}) if model is not None else row
        for row, model in ((row, models.get(row.model)) for row in table.rows)
    ]
    return table.model_copy(update={"rows": rows})


def _newest_results(folder: Path, study: Study) -> Iterable[Path]:
    """Of each folder of results the newest file: lm-eval keeps those of earlier runs next to it."""
    if study.results:
        return filter(None, (newest_of(folder / name) for name in study.results))
    newest: dict[Path, Path] = {}
    for path in sorted((folder / "results").rglob("results_*.json")):
        newest[path.parent] = path
    return newest.values()


def read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Objects of a JSON-lines file.

    Returns:
        The objects, and whether the last line was cut off, as a killed run leaves it; that line is left out.

    Raises:
        UserError: If another line is broken, or the file cannot be read.
    """
    text = read_text(path, "", "an object a line")
    lines = text.rstrip("\n").count("\n") + 1
    found: list[dict[str, Any]] = []
    for number, value in json_lines(text_lines(text), surrogates=True):
        if isinstance(value, Broken) and number == lines and not text.endswith("\n"):
            return found, True
        if not isinstance(value, dict):
            what = f"not JSON ({value.reason})" if isinstance(value, Broken) else kind_of(value)
            raise UserError(f"{path}: line {number} is {what}, expected an object a line; fix or delete the line")
        found.append(value)
    return found, False


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    return read_json(path, "", "a JSON object", RUN_AGAIN, surrogates=True)


def read_record(kind: type[R], path: Path) -> R:
    """A JSON file that holds a record.

    Raises:
        UserError: If it cannot be read, or holds something else.
    """
    return _record(kind, read_object(path), path)


def _record(kind: type[R], value: Any, path: Path) -> R:
    return checked(kind, value, str(path), RUN_AGAIN)
