"""A study's plan: steps that run stock commands, models that are measured, tables that come of them; one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from realign_plugin.errors import UserError
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.records import Marker, Model
from realign_plugin.lab.study.planning.commands import text
from realign_plugin.lab.study.planning.steps import Step, TableSpec
from realign_plugin.text_files import checked, read_json


@dataclass
class Plan:
    """All of a study.

    Attributes:
        root: The study's folder.
        cwd: Folder that relative paths count from.
        config: The configuration.
        steps: By name.
        models: By id.
        tables: By name.
        targets: What can be asked for: names of steps that must be done, by target.
        groups: What the tables call each group.
        choices: Models of which the best is taken: strength by id of the model, for each id of a row.
    """

    root: str
    cwd: str
    config: dict[str, Any]
    steps: dict[str, Step] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    tables: dict[str, TableSpec] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    choices: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is made yet."""
        self._made: set[Path] = set()
        self._prepares = False

    @property
    def folder(self) -> Path:
        """The study's folder, absolute."""
        return Path(os.path.abspath(Path(self.cwd) / self.root))

    def add(self, step: Step) -> str:
        """Add a step.

        Returns:
            Its name.

        Raises:
            UserError: If another step has that name.
        """
        inputs = tuple(path for path in step.inputs if not self.made_here(path))
        step = replace(step, inputs=inputs, stamps=tuple(_stamp(Path(self.cwd) / path) for path in inputs))
        known = self.steps.get(step.name)
        if known is not None and known != step:
            raise UserError(
                f"{step.name}: two steps have this name, expected different ones; rename the task or method"
            )
        others = {
            path: other.name for other in self.steps.values() for path in other.creates if other.name != step.name
        }
        for path in step.creates:
            if path in others:
                raise UserError(
                    f"{step.name}: makes {path}, as {others[path]} does, expected different ones; rename a task or "
                    "method"
                )
        self.steps[step.name] = step
        self._made |= {Path(os.path.abspath(Path(self.cwd) / path)) for path in step.creates}
        self._prepares = self._prepares or step.kind == "prepare"
        return step.name

    def made_here(self, path: str | Path) -> bool:
        """Whether a file is made by an earlier step, as it says, or in the study's folder by a `prepare` step."""
        whole = Path(os.path.abspath(Path(self.cwd) / path))
        return not self._made.isdisjoint((whole, *whole.parents)) or (self._prepares and self.holds(whole))

    def holds(self, path: str | Path) -> bool:
        """Whether a path is in the study's folder."""
        return Path(os.path.abspath(Path(self.cwd) / path)).is_relative_to(self.folder)

    def wanted(self, targets: Iterable[str]) -> list[Step]:
        """The steps that targets depend on, each after those it needs."""
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            if name not in order:
                for need in self.steps[name].needs:
                    visit(need)
                order[name] = None

        for target in targets:
            for name in self.targets[target]:
                visit(name)
        return [self.steps[name] for name in order]

    def marker(self, name: str) -> Path:
        """The file that marks a step as done."""
        return self.folder / "steps" / f"{name}.json"

    def forget(self, name: str) -> None:
        """Let a step resume, and all that needs it run again; its marker still tells what it has made."""
        if self.marker(name).exists():
            self.marker(name).replace(self.forgotten(name))

    def forgotten(self, name: str) -> Path:
        """The marker of a step that has to run again, with its time."""
        return self.marker(name).with_suffix(".made")

    def made_before(self, step: Step) -> bool:
        """Whether what a step is to make is there, and as the step itself has left it."""
        marker, files = self.forgotten(step.name), [Path(self.cwd) / path for path in step.creates]
        held = (path.with_stem(f"{path.stem}_validation") for path in files)
        there = [path for path in (*files, *held) if path.exists()]
        return bool(there) and marker.exists() and all(p.stat().st_mtime <= marker.stat().st_mtime for p in there)

    def forget_whole(self, name: str) -> None:
        """Let a step run again from its start, and all that needs it."""
        self.forget(name)
        marker = self.marker(name)
        for suffix in (".progress", ".commands.json"):
            marker.with_suffix(suffix).unlink(missing_ok=True)

    def count(self, steps: int) -> None:
        """Number the steps that start from now on: 1 of ``steps``, and so on."""
        write_json(self.todo, {"steps": steps, "started": []})

    @property
    def todo(self) -> Path:
        """The file that counts the steps which a start has to do, and records which have started."""
        return self.folder / "steps" / "todo"

    def log(self, name: str) -> Path:
        """A step's log."""
        return self.folder / "logs" / f"{name}.log"

    def failure(self, name: str) -> Path:
        """The file that records how a step failed."""
        return self.folder / "steps" / f"{name}.failed.json"

    def stale(self, targets: Iterable[str], again: Iterable[str] = ()) -> list[tuple[Step, str]]:
        """Steps of the targets that have to run, in order, and why."""
        wanted = self.wanted(targets)
        reasons: dict[str, str] = dict.fromkeys(again, "asked for")
        while True:
            before = dict(reasons)
            for step in wanted:
                why = self.why(step, set(reasons)) or reasons.get(step.name, "")
                if why:
                    reasons.setdefault(step.name, why)
            # What a step that runs reads has to be there, though its maker is done: it may have been removed since.
            run = [step for step in wanted if step.name in reasons]
            for name in [name for step in run for name in (*step.needs, *step.hands_on)]:
                if name not in reasons and self.gone(self.steps[name]):
                    reasons[name] = "what it made is gone, and is needed"
            if reasons == before:
                return [(step, reasons[step.name]) for step in wanted if step.name in reasons]

    def gone(self, step: Step) -> bool:
        """Whether something that a step made is no longer there."""
        return any(not (Path(self.cwd) / path).exists() for path in step.creates)

    def newer_inputs(self, step: Step, than: Path) -> bool:
        """Whether one of the user's files that a step reads was changed after a file was written."""
        given = [Path(self.cwd) / path for path in step.inputs]
        return any(path.stat().st_mtime > than.stat().st_mtime for path in given if path.exists())

    def done(self, name: str) -> Marker | None:
        """What was recorded when a step ended; None if it has not, or its marker cannot be read."""
        marker = self.marker(name)
        try:
            return checked(Marker, read_json(marker, "", "a marker"), str(marker), "run the study again")
        except UserError:
            return None

    def why(self, step: Step, again: set[str]) -> str:
        """Why a step has to run; empty if it does not."""
        marker = self.marker(step.name)
        known = self.done(step.name)
        if known is None:
            return "new"
        if known.fingerprint not in step.fingerprints:
            return "changed"
        if again & set(step.needs):
            return "what it needs runs again"
        before = [path for path in map(self.marker, step.needs) if path.exists()]
        older = any(path.stat().st_mtime > marker.stat().st_mtime for path in before)
        return "older than what it needs" if older or self.newer_inputs(step, marker) else ""

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        values = TypeAdapter(Plan).dump_python(self, mode="json")
        for name, step in self.steps.items():
            values["steps"][name] |= {
                "fingerprint": step.fingerprint,
                "commands": [text(command) for command in step.does],
            }
        # In their order, which the files of trainings and the command lines keep.
        write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what ``save`` wrote.

        Raises:
            UserError: If it is not a plan.
        """
        fix = "run `realign study`, which writes it"
        found = read_json(path, "", "a study's plan", fix)
        plan = checked(cls, found, f"{path}: is not a study's plan", fix)
        named = [*plan.targets.values(), *((*step.needs, *step.hands_on) for step in plan.steps.values())]
        lost = [name for names in named for name in names if name not in plan.steps]
        lost += [name for table in plan.tables.values() for name in table.models if name not in plan.models]
        if lost:
            raise UserError(
                f"{path}: is not a study's plan: it names {lost[0][:60]!r}, expected a step or a model; {fix}"
            )
        return plan


def _stamp(path: Path) -> str:
    """Size and time of a file: another one put in its place differs, even with an older time."""
    if not path.exists():
        return ""
    known = path.stat()
    return f"{known.st_size} {known.st_mtime_ns}"
