"""Staging folders: hidden, locked by their process, and cleaned up after it has died."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError

PREFIX: Final = ".realign-"
LOCK: Final = "lock"
COMMIT: Final = "commit.json"
"""In a staging folder: what is staged is complete, and this file says what has to be done with it."""

_NAME: Final = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stage:
    """A hidden folder that only this process writes to.

    Its lock ends with the process, however that ends, so others know when they may clean up.

    Attributes:
        folder: The folder; on the file system of the folder it was made in.
        committed: Whether what is staged is complete.
    """

    def __init__(self, home: Path) -> None:
        """Make the folder.

        Args:
            home: Where; folders that are missing are made, and removed again when the stage is closed and they are
                empty.

        Raises:
            OSError: If it cannot be written.
        """
        self.committed = False
        self._made = [folder for folder in (home, *home.parents) if not folder.exists()]
        if home.exists() and not home.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(home))
        while True:
            home.mkdir(parents=True, exist_ok=True)
            try:
                self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
                self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # another process cleaned up: this folder, still empty, or the one that it is in
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                continue  # likewise
            except OSError:
                pass  # no locks on this file system: nothing is cleaned up
            if os.fstat(self._lock).st_nlink:
                break
            os.close(self._lock)
        try:
            os.write(self._lock, f"{os.getpid()}\n".encode())  # a full disk fails here
        except OSError:
            self.close()
            raise

    def move(self, home: Path) -> None:
        """Move the folder.

        Raises:
            OSError: If it cannot be moved there, such as to another file system.
        """
        moved = home / self.folder.name
        os.rename(self.folder, moved)
        self.folder = moved

    def commit(self, todo: dict[str, Any]) -> None:
        """Say, in one rename, that what is staged is complete and will take its place.

        Args:
            todo: What is needed to finish it.
        """
        draft = self.folder / f"{COMMIT}.draft"
        draft.write_text(json.dumps(todo), encoding="utf-8")
        os.rename(draft, self.folder / COMMIT)
        self.committed = True

    def close(self, *, keep: bool = False) -> None:
        """Remove the folder and what was made for it.

        Args:
            keep: Leave it for the process that finishes what was committed.
        """
        if not keep:
            with suppress(OSError):
                remove(self.folder)
        os.close(self._lock)
        for folder in self._made:
            try:
                os.rmdir(folder)
            except OSError:
                break


def remove(folder: Path) -> None:
    """Remove a staging folder, its lock last."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == LOCK):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    folder.rmdir()


def abandoned(home: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Staging folders in a folder whose processes are dead, each held while it is looked at.

    Args:
        home: The folder.

    Yields:
        The staging folder, and what :meth:`Stage.commit` left in it.
    """
    try:
        found = sorted(name for name in os.listdir(home) if _NAME.fullmatch(name))
    except OSError:
        return
    for folder in (home / name for name in found):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except FileNotFoundError:
            with suppress(OSError):
                os.rmdir(folder)  # made, and never used
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            todo = json.loads((folder / COMMIT).read_text(encoding="utf-8")) if (folder / COMMIT).exists() else None
        except (OSError, ValueError):
            os.close(lock)  # in use, or not ours
            continue
        try:
            if todo is None or isinstance(todo, dict):
                yield folder, todo
        finally:
            os.close(lock)


@contextmanager
def reported(target: str | Path, work: Path | None = None) -> Iterator[None]:
    """Turn errors of writing into one line for the user.

    Args:
        target: What the user called the file or folder.
        work: What stands for it while it is staged, where the block does more than write to that: then only what
            concerns that, and a full disk, is turned.

    Raises:
        UserError: With the system's reason.
    """
    try:
        yield
    except UserError as error:
        if work is None or str(work) not in str(error):
            raise
        raise UserError(str(error).replace(str(work), str(target))) from error
    except Exception as error:
        reason = _reason(error, work)
        if reason is None:
            raise
        raise UserError(
            f"{target}: cannot be written ({reason}), expected a writable folder with room; free some space, or give "
            "another path"
        ) from error


def _reason(error: Exception, work: Path | None) -> str | None:
    if isinstance(error, OSError):
        about = str(error.filename or "")
        ours = work is None or about.startswith(str(work)) or (not about and error.errno in _FULL)
        return (error.strerror or str(error)) if ours else None
    from safetensors import SafetensorError

    text = str(error).partition("\n")[0]
    wrote = isinstance(error, SafetensorError) and text.startswith("Error while serializing")
    wrote = wrote or (isinstance(error, RuntimeError) and "PytorchStreamWriter failed writing" in text)
    return text.rpartition("I/O error: ")[2] if wrote else None
