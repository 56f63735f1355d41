"""Files and folders that are whole or absent: staged, then renamed; and their sha256."""

from __future__ import annotations

import ctypes
import errno
import filecmp
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.staging import Stage, abandoned, remove, reported

MODEL_SUFFIXES: Final = (".json", ".safetensors", ".bin", ".jinja", ".model", ".tiktoken", ".txt")
"""Of the files that decide what a model answers: weights, configuration, tokenizer, chat template."""
_HERE: Final = -100  # AT_FDCWD
_EXCHANGE: Final = 2  # RENAME_EXCHANGE


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when the block ends well.

    Behind a link, the file that it leads to is replaced. A block that writes nothing changes nothing, which tests
    whether the file can be written.

    Args:
        target: The file; its folder is made if it is missing.

    Yields:
        Where to write.

    Raises:
        UserError: If the target is not a file, or cannot be written.
    """
    with reported(target):
        file = _resolved(target, "file")
        if file.exists() and not file.is_file():
            kind = "a folder" if file.is_dir() else "a device or a pipe"
            raise UserError(f"{target}: is {kind}, expected a file to write; give another path")
        clean_up(file.parent)
        stage = Stage(file.parent)
    try:
        with reported(target):
            (stage.folder / file.name).exists()  # a name that is too long fails here
        work = stage.folder / "new"
        with reported(target, work):
            yield work
        with reported(target):
            if work.exists():
                _put(work, file)
    finally:
        stage.close()


def write_text(target: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    with atomic_file(target) as work:
        work.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(
    target: str | Path, *, replaces: Sequence[str] = (), last: str | None = None, shared: bool = False
) -> Iterator[Path]:
    """Fill a folder under a temporary name, and put it in its place when the block ends well.

    A new folder comes with one rename. A folder of files is exchanged for the new one, in one system call, the files
    that stay having been linked into that. A folder that cannot be exchanged (a mount point, the working folder, one
    with folders in it, a file system that cannot) has the files moved in one by one: first ``last`` goes, if it
    changes, and it comes last, so that what is there in between is not taken for whole; the next run, or reader,
    finishes what a kill cuts off there.

    Args:
        target: The folder to write to; made if it is missing.
        replaces: Patterns of files that go with the old content, though the block does not write them. All others
            stay.
        last: The file without which the others are useless, such as a model's configuration.
        shared: Whether other processes write to the target at the same time; then it is never exchanged.

    Yields:
        A folder on the target's file system that has its name.

    Raises:
        UserError: If the target is a file or cannot be written.
    """
    with reported(target):
        folder = real_folder(target)
        stage = _stage_for(folder, shared)
    try:
        work = stage.folder / (folder.name or "root")
        with reported(target, work):
            work.mkdir()
            yield work
        with reported(target):
            _publish(stage, work, folder, replaces, last, shared)
    finally:
        stage.close(keep=stage.committed)  # what could not be moved in, the next run moves


def real_folder(target: str | Path) -> Path:
    """A folder to write to, links resolved; it need not exist.

    Raises:
        UserError: If it is a file, an empty path, or a link that leads nowhere.
    """
    folder = _resolved(target, "folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{target}: is a file, expected a folder to write to; give another path")
    return folder


def try_folder(target: str | Path) -> None:
    """Check that a folder can be written, and leave nothing behind.

    Raises:
        UserError: If it is a file or cannot be written.
    """
    with reported(target):
        folder = real_folder(target)
        stage = _stage_for(folder, True)
        try:
            (stage.folder / folder.name).exists()  # a name that is too long fails here
        finally:
            stage.close()


def clean_up(home: Path) -> None:
    """Remove what dead processes left staged in a folder, and finish what they had completed."""
    for stage, todo in abandoned(home):
        with suppress(OSError):  # not ours to move or remove: it stays
            if todo is None:
                remove(stage)
            elif todo.get("kind") == "folder" and _stays_inside(stage, todo):
                _move_in(stage, todo)


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a readable file; check it") from error


def model_stamp(folder: Path) -> str:
    """What a model's files are known by, without reading gigabytes: their names, sizes and times.

    Args:
        folder: Of the model.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix in MODEL_SUFFIXES and file.is_file()]
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _resolved(target: str | Path, what: str) -> Path:
    if not os.fspath(target):
        raise UserError(f"the {what} to write to is an empty path, expected one; give '.' for the working folder")
    path = Path(os.path.realpath(target))
    if os.path.islink(target) and not path.exists():
        raise UserError(f"{target}: leads to {path}, which does not exist, expected a {what}; remove the link")
    return path


def _stage_for(folder: Path, shared: bool) -> Stage:
    """A stage next to the folder where that can be exchanged, else inside it; tested by a rename."""
    clean_up(folder.parent)
    if not folder.exists():
        return Stage(folder.parent)
    clean_up(folder)
    movable = not shared and _may_be_exchanged(folder)
    stage = Stage(folder)
    if movable:
        with suppress(OSError):
            stage.move(folder.parent)
    return stage


def _may_be_exchanged(folder: Path) -> bool:
    """Whether it holds only files, so that nothing is lost with the old folder, and no known process works in it."""
    with os.scandir(folder) as entries:
        flat = all(entry.is_symlink() or entry.is_file() for entry in entries)
    here = Path(os.path.realpath(os.curdir))
    return flat and folder != here and folder not in here.parents


def _publish(stage: Stage, work: Path, folder: Path, replaces: Sequence[str], last: str | None, shared: bool) -> None:
    files = sorted(str(path.relative_to(work)) for path in work.rglob("*") if not path.is_dir())
    if stage.folder.parent != folder:
        try:
            if not folder.exists():
                os.rename(work, folder)
                return
            if not shared and _may_be_exchanged(folder):
                _carry_over(folder, work, replaces)
                exchange(work, folder)
                return
        except OSError:  # another process was faster, or the file system has no exchange or no links
            if not folder.is_dir():
                raise
        stage.move(folder)
    todo = {"kind": "folder", "from": work.name, "files": files, "replaces": list(replaces), "last": last}
    stage.commit(todo)
    _move_in(stage.folder, todo)


def _carry_over(folder: Path, work: Path, replaces: Sequence[str]) -> None:
    """Link the files that stay into the new folder, which gets the old one's mode and owner."""
    known = folder.stat()
    os.chown(work, known.st_uid, known.st_gid)
    shutil.copymode(folder, work)
    for path in folder.iterdir():
        if not os.path.lexists(work / path.name) and not _matches(path.name, replaces):
            os.link(path, work / path.name, follow_symlinks=False)


def exchange(first: Path, second: Path) -> None:
    """Exchange two folders in one system call.

    Raises:
        OSError: If they, or the file system, do not allow it.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    sys.audit("os.rename", str(first), str(second), -1, -1)  # as for every rename
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))


def _move_in(stage: Path, todo: dict[str, Any]) -> None:
    """Move the files of a staging folder into the folder that it is in; the second time, the rest of them."""
    folder, work, files, last = stage.parent, stage / todo["from"], todo["files"], str(todo.get("last") or "")
    if last in files and os.path.lexists(work / last) and (folder / last).exists():
        several = sum(name != last and _matches(name, todo["replaces"]) for name in files) > 1
        if several or not filecmp.cmp(work / last, folder / last, shallow=False):
            (folder / last).unlink()
    for path in folder.iterdir():
        if path.name not in files and not path.is_dir() and _matches(path.name, todo["replaces"]):
            path.unlink()
    for name in sorted(files, key=lambda name: name == last):
        if os.path.lexists(work / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / name, folder / name)
    remove(stage)


def _stays_inside(stage: Path, todo: dict[str, Any]) -> bool:
    """Whether finishing moves files of the stage into its folder only: a folder from elsewhere may hold anything."""
    source, files, replaces = todo.get("from"), todo.get("files"), todo.get("replaces")
    if not (isinstance(source, str) and isinstance(files, list) and isinstance(replaces, list)):
        return False
    if not all(isinstance(word, str) for word in (*files, *replaces)):
        return False
    folder, work = stage.parent.resolve(), stage.resolve() / source
    return work.resolve() == folder / stage.name / work.name and all(
        (home / name).parent.resolve().is_relative_to(home) for name in files for home in (folder, work)
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _put(work: Path, file: Path) -> None:
    try:
        os.replace(work, file)
    except OSError as error:
        # A file that is a mount point can be filled, and not replaced.
        if error.errno not in (errno.EXDEV, errno.EBUSY) or not file.exists():
            raise
        shutil.copyfile(work, file)
