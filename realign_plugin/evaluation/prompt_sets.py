"""Prompt sets of ours among lm-eval's tasks, and how many prompts each has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.evaluation.results import leaves
from realign_plugin.evaluation.sources import FULL, SUBSET, TOPIC
from realign_plugin.evaluation.task_names import tasks_folder
from realign_plugin.text_files import read_text
from realign_plugin.yaml_files import one_line


@dataclass(frozen=True)
class PromptSet:
    """A task of ours.

    Attributes:
        name: Of the task.
        source: Its prompts.
        full: Whether all of them are taken.
        category: Of which category.
        kind: ``harmful`` or ``benign``.
    """

    name: str
    source: str
    full: bool
    category: str | None
    kind: str


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads lm-eval's files; what they name by !function stays a name."""

    Loader.add_multi_constructor("!function", lambda loader, suffix, node: loader.construct_scalar(node))
    return Loader


@lru_cache
def _entries(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Tasks and groups of a folder by name."""
    import yaml

    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        text = read_text(file, "include_path", "an lm-eval task")
        try:
            entry = yaml.load(text, Loader=_loader())
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(
                f"include_path: {file} is not YAML ({one_line(error)}), expected an lm-eval task; fix it"
            ) from error
        if isinstance(entry, Mapping):
            name = entry.get("group") or entry.get("task")
            if isinstance(name, str):
                found[name] = entry
    return found


def prompt_sets(tasks: Sequence[str], include: Path | None = None) -> list[PromptSet]:
    """The prompt sets of ours among lm-eval's tasks and groups; other tasks ask no judge.

    Args:
        tasks: Names, as ``--tasks`` takes them.
        include: The user's own folder.

    Raises:
        UserError: If a file in that folder cannot be read, or a group is in itself.
    """
    known = dict(_entries(tasks_folder()))
    if include is not None and include.is_dir():
        known |= _entries(include)
    return _sets(tasks, known, ())


def whole_groups(tasks: Collection[str]) -> dict[str, list[str]]:
    """Our groups all of whose tasks are among some, with what each consists of.

    Args:
        tasks: Names of tasks.
    """
    known = _entries(tasks_folder())
    groups = {name: _parts(entry) for name, entry in known.items() if "group" in entry}
    return {name: parts for name, parts in groups.items() if set(tasks).issuperset(leaves(name, groups))}


def _parts(group: Mapping[str, Any]) -> list[str]:
    """The names of a group's tasks and groups."""
    parts = group.get("task") or []
    parts = parts if isinstance(parts, list) else [parts]
    return [str(part.get("task")) if isinstance(part, Mapping) else str(part) for part in parts]


def _sets(tasks: Sequence[str], known: Mapping[str, Mapping[str, Any]], above: tuple[str, ...]) -> list[PromptSet]:
    found: list[PromptSet] = []
    for name in tasks:
        entry = known.get(name)
        if entry is None:
            continue
        if "group" in entry:
            if name in above:
                raise UserError(f"include_path: the group {name!r} is in itself, expected a tree of tasks; correct it")
            found += _sets(_parts(entry), known, (*above, name))
            continue
        kind = str(entry.get("class") or "").rpartition(".")[2]
        if kind in ("PromptTask", "AttackTask"):
            options = entry.get("dataset_kwargs")
            options = options if isinstance(options, Mapping) else {}
            source, kind = str(options.get("source")), str(options.get("kind") or "harmful")
            found.append(PromptSet(name, source, bool(options.get("full")), options.get("category"), kind))
    return found


@lru_cache
def _counted(source: str, folder: Path, full: bool, category: str | None) -> int | None:
    from realign_plugin.evaluation.data import load_prompts

    try:
        return len(load_prompts(source, folder, full=full, category=category))
    except UserError:
        return None


def number_of_prompts(part: PromptSet, folder: Path | None) -> tuple[int, bool]:
    """How many prompts a set has, and whether they were counted in a local file.

    Args:
        part: The set.
        folder: ``safety_data``: a folder of local files in place of the hub.
    """
    if folder is not None:
        counted = _counted(part.source, folder, part.full, part.category)
        if counted is not None:
            return counted, True
    if part.category:
        return TOPIC.get(part.source, FULL.get(part.source, 0)), False
    return (FULL if part.full else SUBSET).get(part.source, 0), False
