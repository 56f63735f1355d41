"""Data files and their entries in LLaMA-Factory's ``dataset_info.json``: added together, under a lock."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_file, clean_up, sha256
from realign_plugin.staging import Stage, abandoned, remove
from realign_plugin.text_files import read_json

INFO: Final = "dataset_info.json"
LOCK: Final = ".dataset_info.json.lock"
KIND: Final = "data"
"""What a staging folder records about its data set."""
WAIT: Final = 60.0
"""Seconds to wait for another process that holds the lock."""

_NAME: Final = re.compile(r"\w[\w.-]*")


def check_name(option: str, name: str) -> None:
    """Refuse a name that cannot name a file and an entry; LLaMA-Factory separates data sets by commas.

    Args:
        option: The option that gave it.
        name: The name.

    Raises:
        UserError: If it cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > 100 or name == "dataset_info":
        raise UserError(
            f"{option}: {name!r} cannot name a data set, expected letters, digits, '_', '-' and '.', at most 100; "
            "rename it"
        )


def entry(file_name: str, *, ranking: bool, extras: set[str]) -> dict[str, Any]:
    """The entry of a data file.

    Args:
        file_name: The file, in the same folder.
        ranking: Whether it holds pairs.
        extras: What ``Half.write`` returns.
    """
    if "roles" in extras:
        columns = {"messages": "conversations"} | ({name: name for name in ("chosen", "rejected")} if ranking else {})
        columns |= {name: name for name in sorted(extras - {"roles", "history"})}
        layout = {"formatting": "sharegpt"}
    else:
        columns = (
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
            if ranking
            else {"prompt": "instruction", "query": "input", "response": "output"}
        )
        columns |= {name: name for name in sorted(extras)}
        layout = {}
    return {"file_name": file_name} | layout | ({"ranking": True} if ranking else {}) | {"columns": columns}


def chosen_entry(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the same file whose rows are its prompts with the chosen answers, for realignment by SFT.

    Args:
        pairs: The entry of the pairs.
    """
    layout = {"formatting": pairs["formatting"]} if "formatting" in pairs else {}
    columns = {"messages": "messages"} if layout else {"prompt": "prompt", "response": "chosen"}
    columns |= {name: name for name in ("system", "history", "tools") if name in pairs["columns"]}
    return {"file_name": pairs["file_name"]} | layout | {"columns": columns}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; other processes that add data sets wait.

    Args:
        folder: LLaMA-Factory's ``dataset_dir``.

    Raises:
        UserError: If another process holds it for a minute.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=WAIT)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder / LOCK} is held by another process for {WAIT:g} s, expected it to be free; wait for that process"
        ) from error
    try:
        yield
    finally:
        lock.release()


def publish(
    folder: Path,
    staged: Sequence[Path],
    card: Path,
    entries: Mapping[str, Mapping[str, Any]],
    retired: Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> None:
    """Put a finished data set into a ``dataset_dir`` in one step: files, card, entries; one that is the same stays.

    Args:
        folder: The ``dataset_dir``; made if it is missing.
        staged: Finished data files, on the same file system, under their final names.
        card: The finished card, likewise; it is always replaced.
        entries: Their entries by name.
        retired: Names of earlier data sets of the same command that are no longer made; ``NAME.jsonl`` and its entry
            go.
        overwrite: Whether entries and data files that differ are replaced.

    Raises:
        UserError: If an entry or a data file differs and ``overwrite`` is not set, or the present
            ``dataset_info.json`` is not a JSON object.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _finish_earlier(folder)
        info = read_info(folder)
        for path in (*staged, card):
            if (folder / path.name).is_dir():
                raise UserError(f"{folder / path.name}: is a folder, expected a file or none; give another --name")
        if not overwrite:
            _check_same(folder, staged, entries, retired, info)
        changed = _changed(info, entries, retired)
        if changed == info and all(_same_bytes(folder / path.name, path) for path in staged):
            os.replace(card, folder / card.name)
            return
        _exchange(folder, (*staged, card), info, entries, retired)


def _exchange(
    folder: Path,
    files: Sequence[Path],
    info: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    retired: Sequence[str],
) -> None:
    """Put a whole data set in the place of another.

    The rename of ``dataset_info.json`` does it: the entries lead to the new files where they are staged. Only then
    the old ones go, both halves, before the new ones come under their names and the entries lead there.
    """
    stage = Stage(folder)
    seen = False
    try:
        for path in files:
            os.replace(path, stage.folder / path.name)
        todo = {"kind": KIND, "files": [path.name for path in files], "entries": entries, "retired": list(retired)}
        stage.commit(todo)
        there = {
            name: {**value, "file_name": f"{stage.folder.name}/{value['file_name']}"}
            for name, value in entries.items()
        }
        _write_info(folder, _changed(info, there, retired))
        seen = True
        _settle(folder, stage.folder, todo)
    finally:
        stage.close(keep=seen)


def _finish_earlier(folder: Path) -> None:
    """Finish what killed processes had committed, and remove what else they left."""
    clean_up(folder)
    for stage, todo in abandoned(folder):
        if todo is not None and todo.get("kind") == KIND:
            names = [value.get("file_name", "") for value in read_info(folder).values() if isinstance(value, dict)]
            if any(str(name).startswith(f"{stage.name}/") for name in names):
                _settle(folder, stage, todo)
            else:
                remove(stage)


def _settle(folder: Path, stage: Path, todo: Mapping[str, Any]) -> None:
    files = [Path(name).name for name in todo["files"]]
    for name in (*files, *(f"{Path(name).name}.jsonl" for name in todo["retired"])):
        present = folder / name
        if os.path.lexists(present) and not _same_file(present, stage / name):
            present.unlink()
    for name in files:
        if not os.path.lexists(folder / name):
            try:
                os.link(stage / name, folder / name)
            except OSError:  # a file system without links
                with atomic_file(folder / name) as work:
                    shutil.copyfile(stage / name, work)
    _write_info(folder, _changed(read_info(folder), todo["entries"], todo["retired"]))
    remove(stage)


def _changed(
    info: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]], retired: Sequence[str]
) -> dict[str, Any]:
    gone = {*retired, *(f"{name}_chosen" for name in retired)}
    return {name: value for name, value in info.items() if name not in gone} | dict(entries)


def _same_file(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and first.samefile(second)


def _same_bytes(first: Path, second: Path) -> bool:
    return first.is_file() and sha256(first) == sha256(second)


def _check_same(
    folder: Path,
    staged: Sequence[Path],
    entries: Mapping[str, Mapping[str, Any]],
    retired: Sequence[str],
    info: Mapping[str, Any],
) -> None:
    fix = "give another --name, or --overwrite to replace it"
    for path in staged:
        present = folder / path.name
        if present.exists() and not _same_bytes(present, path):
            raise UserError(
                f"{present} exists and differs from what would be written, expected none or the same; {fix}"
            )
    for name, value in entries.items():
        if name in info and info[name] != value:
            raise UserError(f"{folder / INFO} has another entry {name!r}, expected none or the same; {fix}")
    for name in retired:
        raise UserError(f"{folder} holds {name!r} of an earlier run without which this one would be; {fix}")


def read_info(folder: Path) -> dict[str, Any]:
    """The entries of a ``dataset_dir``; none where there is no ``dataset_info.json``.

    Args:
        folder: The ``dataset_dir``.

    Raises:
        UserError: If the file cannot be read, or is not a JSON object.
    """
    path = folder / INFO
    if not path.exists():
        return {}
    return read_json(path, "", "an object of data sets", "fix it")


def _write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Replace the file whole, the order of its entries kept; behind a link, the file that it leads to."""
    with atomic_file(folder / INFO) as work:
        # ASCII: LLaMA-Factory opens the file in the machine's own encoding.
        work.write_text(json.dumps(info, indent=2) + "\n", encoding="ascii", newline="\n")
