"""lm-eval's results files: what is in them has the expected shape, or is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Required

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict

from realign_plugin.errors import UserError
from realign_plugin.evaluation.assessment import HIGHER_IS_BETTER
from realign_plugin.evaluation.metrics.cells import Cell, safety_cell, skill_cell
from realign_plugin.text_files import checked, read_json

LARGEST: Final = 1e100
"""Of a metric; the square of a larger one is no longer a number."""
EXPECTED: Final = "lm-eval's results_….json"
OURS: Final = tuple(HIGHER_IS_BETTER["harmful"])
"""The plugin's own metrics."""
FIX: Final = "give the file as lm-eval wrote it (--output_path)"


def _number(value: Any) -> Any:
    """A metric; NaN and infinity, which lm-eval writes as such, are not available."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise ValueError(f"a number up to {LARGEST:g}")
    return value


def _interval(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("hits", 0) > value.get("count", LARGEST):
        raise ValueError("no more hits than count")
    return value


def _arguments(value: Any) -> Any:
    """lm-eval 0.4.8 and before keep model_args as they were typed: ``pretrained=…,peft=…``."""
    if not isinstance(value, str):
        return value or {}
    parts = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): given for name, _, given in parts}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


Count = Annotated[int, Field(ge=0, le=1 << 53)]
Names = Annotated[dict[str, Any], BeforeValidator(_or_empty)]


Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Interval(TypedDict, total=False):
    """What ``metrics.describe`` notes of a rate or a score."""

    low: Number | None
    high: Number | None
    hits: Annotated[float, Field(ge=0, le=1 << 53)]
    count: Count
    not_available: str


class Ours(TypedDict, total=False):
    """``realign``: what the plugin adds."""

    intervals: dict[str, dict[str, Annotated[Interval, AfterValidator(_interval)] | None]]
    judge: Names
    references: Annotated[dict[str, str], BeforeValidator(_or_empty)]


class Config(TypedDict, total=False):
    """``config``, as far as it is read."""

    model_args: Annotated[dict[str, Any], BeforeValidator(_arguments)]
    gen_kwargs: Any


ResultsFile = TypedDict(
    "ResultsFile",
    {
        "results": Required[dict[str, dict[str, Annotated[Any, AfterValidator(_number)]]]],
        "realign": Annotated[Ours, BeforeValidator(_or_empty)],
        "config": Annotated[Config, BeforeValidator(_or_empty)],
        "higher_is_better": Annotated[dict[str, Names], BeforeValidator(_or_empty)],
        "group_subtasks": Annotated[dict[str, list[str]], BeforeValidator(_or_empty)],
        "n-samples": Names,
        "n-shot": Names,
        "versions": Names,
        "task_hashes": Names,
    },
    total=False,
)
"""The parts of a results file that are read; all but ``results`` may be missing or null."""


def read_results(path: Path) -> dict[str, Any]:
    """What a results file holds; the parts in ``ResultsFile`` have its types.

    Args:
        path: ``results_DATE.json``.

    Raises:
        UserError: If it cannot be read, or one of those parts has another shape.
    """
    found = read_json(path, "results", EXPECTED, FIX)
    known = checked(ResultsFile, found, f"results: {path}", FIX)
    for group in known.get("group_subtasks", {}):
        _check_group(group, known["group_subtasks"], (), path)
    return found | known


def _check_group(name: str, groups: Mapping[str, Sequence[str]], above: tuple[str, ...], path: Path) -> None:
    if name in above:
        raise UserError(f"results: {path}: group_subtasks: {name} is in itself, expected a tree of groups; {FIX}")
    for child in groups.get(name, ()):
        _check_group(child, groups, (*above, name), path)


def newest(folder: Path) -> Path | None:
    """The newest results file below a folder; None if there is none."""
    return max(folder.rglob("results_*.json"), key=lambda path: path.name, default=None)


def newest_of_one(what: str, files: Iterable[Path]) -> Path | None:
    """The newest of one model's files; lm-eval keeps each model's in a folder of its own, with their dates as names.

    Args:
        what: The option that names them.
        files: Files of one kind.

    Raises:
        UserError: If they are in several folders.
    """
    found = sorted(files, key=lambda path: path.name)
    folders = list(dict.fromkeys(path.parent for path in found))
    if len(folders) > 1:
        raise UserError(
            f"{what}: {folders[0]} and {folders[1]} both hold some, expected one model's; give one of them"
        )
    return found[-1] if found else None


@dataclass(frozen=True)
class Results:
    """One results file.

    Attributes:
        tasks: Metrics by task and group.
        intervals: Of the plugin's metrics, by task and metric.
        higher: By task and metric, whether more is better.
        members: Tasks of each group.
        judge: Who judged, and how.
        data: The whole file.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    intervals: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    higher: Mapping[str, Mapping[str, bool]]
    members: Mapping[str, Sequence[str]]
    judge: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file.

        Raises:
            UserError: If it is not lm-eval's.
        """
        data = read_results(path)
        ours = data.get("realign", {})
        higher, members = data.get("higher_is_better", {}), data.get("group_subtasks", {})
        return cls(data["results"], ours.get("intervals", {}), higher, members, ours.get("judge", {}), data)

    def leaves(self, name: str) -> list[str]:
        """The tasks of a group, or the task itself."""
        below = self.members.get(name) or []
        return [leaf for child in below for leaf in self.leaves(child)] if below else [name]

    def better(self, task: str, metric: str) -> bool | None:
        """Whether more of a metric is better, for a group that does not say it by its tasks; None where none says."""
        own = self.higher.get(task, {}).get(metric)
        if isinstance(own, bool):
            return own
        below = (self.higher.get(leaf, {}).get(metric) for leaf in self.leaves(task))
        found = {one for one in below if isinstance(one, bool)}
        return found.pop() if len(found) == 1 else None

    def interval(self, task: str, metric: str) -> Mapping[str, Any]:
        """What is noted of one of the plugin's metrics; empty where nothing is."""
        return self.intervals.get(task, {}).get(metric) or {}

    def cell(self, task: str, metric: str) -> Cell:
        """A number with its interval, or why there is none."""
        row = self.tasks.get(task)
        if row is None:
            return Cell(reason=f"not measured: {task} is not among this model's tasks")
        key = next((k for k in row if k.partition(",")[0] == metric), None)
        if key is None:
            return Cell(reason=f"no {metric} in lm-eval's results of {task}")
        known = self.interval(task, metric)
        if known or metric in OURS:
            cell = safety_cell(row[key], known)
            return cell if cell.value is not None else Cell(reason=str(known.get("not_available", "no verdict")))
        return skill_cell(row, key) if isinstance(row[key], (int, float)) else Cell(reason=f"{row[key]}")
