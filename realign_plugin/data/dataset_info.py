"""Data files and their entries in LLaMA-Factory's ``dataset_info.json``: added together, under a lock."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from realign_plugin.atomic import sha256
from realign_plugin.errors import UserError
from realign_plugin.text_files import read_json

INFO: Final = "dataset_info.json"
LOCK: Final = ".dataset_info.json.lock"
WAIT: Final = 60.0
"""Seconds to wait for another process that holds the lock."""

_NAME: Final = re.compile(r"\w[\w.-]*")


def check_name(option: str, name: str) -> None:
    """Refuse a name that cannot be a file's and an entry's; LLaMA-Factory separates data sets by commas.

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
    """Move finished files into a ``dataset_dir`` and add their entries; what is there and the same stays.

    Args:
        folder: The ``dataset_dir``; made if it is missing.
        staged: Finished data files, on the same file system, under their final names.
        card: The finished card, likewise; it is always replaced.
        entries: Their entries by name.
        retired: Names of earlier data sets of the same command that are no more; ``NAME.jsonl`` and its entry go.
        overwrite: Whether entries and data files that differ are replaced.

    Raises:
        UserError: If an entry or a data file differs and ``overwrite`` is not set, or the present
            ``dataset_info.json`` is not a JSON object.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        info = read_info(folder)
        if not overwrite:
            _check_same(folder, staged, entries, retired, info)
        gone = {*retired, *(f"{name}_chosen" for name in retired)}
        changed = {name: value for name, value in info.items() if name not in gone} | dict(entries)
        # The entries come last: until then nothing refers to the new files.
        for path in (*staged, card):
            os.replace(path, folder / path.name)
        if changed != info or not (folder / INFO).exists():
            _write_info(folder, changed)
        for name in retired:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)


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
        if present.exists() and (not present.is_file() or sha256(present) != sha256(path)):
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
    path = (folder / INFO).resolve()
    handle, name = tempfile.mkstemp(prefix=f".{INFO}.", dir=path.parent)
    try:
        # ASCII: LLaMA-Factory opens the file in the machine's own encoding.
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(info, file, indent=2)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
