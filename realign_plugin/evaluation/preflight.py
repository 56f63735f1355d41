"""What is checked before a model is loaded: the tasks of the run that are ours, and whether all they need is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lm_eval.tasks
from lm_eval.config.group import GroupConfig
from lm_eval.tasks._yaml_loader import load_yaml

from realign_plugin.errors import UserError
from realign_plugin.evaluation.downstream import DownstreamTask
from realign_plugin.evaluation.task import PromptTask
from realign_plugin.evaluation.task_names import check_each_once

OURS: Final = (PromptTask, DownstreamTask)
_HOST: Final = Path(lm_eval.tasks.__file__).parent
_OF_GROUPS: Final = frozenset(GroupConfig.__dataclass_fields__)
_Spec = str | dict[str, Any]


def check(arguments: dict[str, Any]) -> None:
    """Load our tasks before a model is loaded, wherever the run takes them from, and see that all they need is there.

    Args:
        arguments: Keyword arguments of ``simple_evaluate``.

    Raises:
        UserError: If a setting is at fault, a task's data or reference cannot be had, the judge does not answer, two
            tasks are to have different judges, or a task is asked for twice.
    """
    manager = arguments.get("task_manager")
    if manager is None:
        return
    ours = our_tasks(arguments.get("tasks") or [], manager.task_index)
    loaded = manager.load(ours)["tasks"] if ours else {}  # lm-eval loads them again, after it has seeded
    check_one_judge(loaded.values())
    if not arguments.get("predict_only"):
        for task in loaded.values():
            if isinstance(task, PromptTask):
                task.prepare()


def check_one_judge(tasks: Iterable[Any]) -> None:
    """See that tasks of one run have one judge.

    Args:
        tasks: Loaded ones, others than ours among them.

    Raises:
        UserError: For the first task and setting that are otherwise.
    """
    ours = [task for task in tasks if isinstance(task, PromptTask)]
    for task in ours[1:]:
        name = task.settings.judged_unlike(ours[0].settings)
        if name is not None:
            here, there = (repr(getattr(one.settings, name))[:80] for one in (task, ours[0]))
            raise UserError(
                f"{task.config.task}: {name} is {here} here and {there} in {ours[0].config.task}, expected one judge "
                f"for all tasks of a run; give {name} in --metadata, or run {task.config.task} by itself"
            )


def our_tasks(specs: Sequence[Any], index: Mapping[str, Any]) -> list[_Spec]:
    """Those of our tasks that a run asks for, each as ``TaskManager.load`` takes it, with what its groups say of it.

    Args:
        specs: Names, paths, configurations and tasks, as ``simple_evaluate`` takes them.
        index: ``TaskManager.task_index``.

    Raises:
        UserError: If two of the specs hold the same task, which lm-eval does not evaluate twice.
    """
    found = [one for spec in specs for one in _below(spec, index)]
    check_each_once("--tasks", ((name, top) for name, top, _ in found))
    return [loadable for *_, loadable in found]


def _below(spec: Any, index: Mapping[str, Any]) -> Iterator[tuple[str, str, _Spec]]:
    """Name, top-level name and loadable form of each of our tasks below what a run asks for."""
    if isinstance(spec, str) and getattr(index.get(spec), "tags", None) and index[spec].cfg is None:  # a tag's tasks
        for name in sorted(index[spec].tags):
            yield from _below(name, index)
        return
    entry = index.get(spec) if isinstance(spec, str) else None
    path = getattr(entry, "yaml_path", None)
    config = getattr(entry, "cfg", None)
    if isinstance(spec, dict):
        config = spec
    elif isinstance(spec, str) and entry is None and Path(spec).is_file():
        path, config = Path(spec), load_yaml(spec, resolve_func=False)
    if not isinstance(config, Mapping):
        return
    if _is_group(config):
        top = str(config["group"])
        for name, changes in _members(config, {}, index):
            yield name, top, {"group": top, "task": [{**changes, "task": name}]} if changes else name
    elif _is_ours(config, path):
        yield str(config["task"]), str(config["task"]), spec


def _members(
    group: Mapping[str, Any], above: Mapping[str, Any], index: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Our tasks below a group, with what it and the groups above it change; the topmost wins, as in lm-eval."""
    changes = {key: value for key, value in group.items() if key not in _OF_GROUPS} | dict(above)
    members = group.get("task")
    for member in members if isinstance(members, list) else ():
        given = {"task": member} if isinstance(member, str) else dict(member)
        own = {key: value for key, value in given.items() if key not in ("task", "group")}
        name = given.get("group", given.get("task"))
        entry = index.get(str(name))
        if entry is None:
            if "group" in given:
                yield from _members(given, changes, index)
        elif entry.cfg is None:
            yield from _members({"task": sorted(entry.tags)}, changes | own, index)
        elif _is_group(entry.cfg):
            yield from _members(entry.cfg, changes | own, index)
        elif _is_ours(entry.cfg, entry.yaml_path):
            yield str(name), changes | own


def _is_group(config: Mapping[str, Any]) -> bool:
    return "group" in config and "class" not in config


def _is_ours(config: Mapping[str, Any], path: Path | None) -> bool:
    """Whether a task's class is one of ours or made of one; lm-eval's own files are not asked."""
    found = config.get("class")
    if isinstance(found, str) and path is not None:
        if Path(path).resolve().is_relative_to(_HOST):
            return False
        found = load_yaml(path).get("class")
    return isinstance(found, type) and issubclass(found, OURS)
