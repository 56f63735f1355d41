"""Whether lm-eval knows a task: by the names in its files and ours, then by its index, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import realign_plugin
from realign_plugin.errors import UserError, check_choice

_NAME: Final = re.compile(r"^(?:task|group):\s*([\w-]+)\s*$", re.MULTILINE)


def tasks_folder() -> Path:
    """The folder of the lm-eval tasks: inside an installed package, next to it in a checkout."""
    package = Path(realign_plugin.__file__).parent
    inside, beside = package / "lm_eval_tasks", package.parent / "lm_eval_tasks"
    return inside if inside.is_dir() else beside


def names_in(folder: Path) -> set[str]:
    """Names of the tasks and groups in a folder's YAML files."""
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in folder.rglob("*.yaml"))
    return {name for text in texts for name in _NAME.findall(text)}


def check_tasks(tasks: Collection[str], include: Path | None, what: str) -> None:
    """Refuse a task that lm-eval would not find.

    Args:
        tasks: Names of tasks and groups.
        include: The user's own folder (``--include_path``).
        what: The option that names them.

    Raises:
        UserError: For the first unknown one, with the closest name.
    """
    known = names_in(tasks_folder())
    if include is not None and include.is_dir():
        known |= names_in(include)
    host = find_spec("lm_eval")
    if host is not None and not known.issuperset(tasks):
        known |= names_in(Path(*host.submodule_search_locations or [], "tasks"))
    others = [name for name in dict.fromkeys(tasks) if name not in known and "*" not in name]
    if not others:
        return
    from lm_eval.tasks import TaskManager

    everything = set(TaskManager(include_path=str(include) if include else None).all_tasks)
    for name in others:
        if name not in everything and not Path(name).exists():
            import difflib

            check_choice(what, name, difflib.get_close_matches(name, everything | known, n=4) or sorted(known))


def check_each_once(what: str, held: Iterable[tuple[str, str]]) -> None:
    """Refuse a task that two of the names asked for hold, which lm-eval does not evaluate twice.

    Args:
        what: The option that names them.
        held: Tasks, each with the task or group asked for that holds it.

    Raises:
        UserError: For the first such task.
    """
    seen: dict[str, str] = {}
    for task, asked in held:
        if seen.setdefault(task, asked) != asked:
            raise UserError(
                f"{what}: {task} is in {seen[task]} and in {asked}, expected each task once; leave one of them out"
            )
