"""Verdicts on disk, as JSON: a second run costs nothing, and one that broke off goes on."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError

NAME: Final = "verdicts"
ASKING: Final = "asking"
"""Folder of the locks that say which questions are being asked; the system frees those of a process that ends."""
TIMEOUT: Final = 30.0
"""Seconds to wait for another process's lock."""
BROKEN: Final = (sqlite3.DatabaseError, ValueError, KeyError, TypeError, zlib.error)
"""What a corrupt cache raises; ``sqlite3.OperationalError`` is one of them only where ``_corrupt`` says so."""


def key_of(**parts: Any) -> str:
    """Key of a request: sha256 of everything that the answer depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _json_disk() -> Any:
    """``diskcache``'s JSON disk, which writes no pickle; this one reads none either, whoever put it there."""
    import diskcache
    from diskcache.core import MODE_PICKLE

    class JSONOnlyDisk(diskcache.JSONDisk):  # type: ignore[misc]
        """Refuses entries that are not JSON."""

        def fetch(self, mode: int, filename: str, value: Any, read: bool) -> Any:
            """Read a value."""
            if mode == MODE_PICKLE:
                raise ValueError("an entry is no JSON")
            return super().fetch(mode, filename, value, read)

        def get(self, key: Any, raw: bool) -> Any:
            """Read a key."""
            if not raw:
                raise ValueError("a key is no JSON")
            return super().get(key, raw)

    return JSONOnlyDisk


def _corrupt(error: BaseException) -> bool:
    """Whether a file is damaged, as against locked, read-only or on a full disk."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error) or "malformed" in str(error)
    return isinstance(error, BROKEN)


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _failures() -> tuple[type[Exception], ...]:
    """What a cache may raise: damage, a full disk, a lock that is not given up."""
    import diskcache

    return (*BROKEN, OSError, diskcache.Timeout)


class VerdictCache:
    """The texts that judges gave, by request.

    Keys and values are JSON, nothing is pickled, and nothing is ever dropped. A folder that cannot be read is moved
    aside, which is said, and a new one is made. Several processes may use it at once. Where the disk is full or the
    files stay locked, that is said once and nothing more is kept: the run goes on without.
    """

    def __init__(self, folder: Path) -> None:
        """Open the cache.

        Args:
            folder: Folder that holds it; made if missing. The cache itself is readable by the user alone.

        Raises:
            UserError: If the folder cannot be written.
        """
        self.folder = folder / NAME
        self._inode: int | None = None
        self._keeping = True
        for last in (False, False, True):
            try:
                self._open()
                return
            except _failures() as error:
                if last or not (_corrupt(error) or self._moved()):
                    raise UserError(
                        f"judge_cache: {folder} cannot be written ({_said(error)}), expected a writable folder; give "
                        "another one"
                    ) from error
                self._move_aside(error)

    def _open(self) -> None:
        import diskcache

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.with_name(ASKING).mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        self._inode = self.folder.stat().st_ino
        self._cache = diskcache.Cache(
            str(self.folder), disk=_json_disk(), eviction_policy="none", size_limit=2**50, timeout=TIMEOUT
        )
        with closing(sqlite3.connect(self.folder / diskcache.core.DBNAME, timeout=TIMEOUT)) as database:
            if database.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError("its check failed")

    def _moved(self) -> bool:
        """Whether another process has put another folder in this one's place, or is about to."""
        try:
            return self.folder.stat().st_ino != self._inode and self._inode is not None
        except OSError:
            return True

    def _move_aside(self, error: BaseException) -> None:
        if self._moved():
            return
        aside = self.folder.with_name(f"{NAME}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
        if aside.exists():
            aside = aside.with_name(f"{aside.name}-{os.getpid()}")
        try:
            self.folder.rename(aside)
        except OSError:
            return  # another process was faster
        print(
            f"realign-plugin: the judge's cache was corrupt ({_said(error)}); it is now {aside}, a new one is made",
            file=sys.stderr,
        )

    def _anew(self, error: BaseException) -> bool:
        """After an error: a new cache where the old one is damaged; else say once that nothing more is kept."""
        if _corrupt(error):
            self._move_aside(error)
            try:
                self._open()
                return True
            except _failures() as again:
                error = again
        if self._keeping:
            self._keeping = False
            print(
                f"realign-plugin: the judge's cache {self.folder} cannot be used ({_said(error)}); further verdicts "
                "are not kept",
                file=sys.stderr,
            )
        return False

    def get(self, key: str) -> str | None:
        """The text kept for a key, or None."""
        try:
            value = self._cache.get(key)
        except _failures() as error:
            self._anew(error)
            return None
        return value if isinstance(value, str) else None

    def put(self, key: str, text: str) -> None:
        """Keep a text, if the disk takes it."""
        if not self._keeping:
            return
        try:
            self._cache.set(key, text)
        except _failures() as error:
            if self._anew(error):
                self.put(key, text)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Take a question for the length of the block, so that other processes on this cache wait for its verdict.

        Args:
            key: The question's key.

        Yields:
            False where another process has taken it; True also where the file system has no locks.
        """
        import filelock

        lock = filelock.FileLock(self.folder.with_name(ASKING) / key)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            yield False
            return
        except (OSError, NotImplementedError):
            yield True
            return
        try:
            yield True
        finally:
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def close(self) -> None:
        """Close the files."""
        self._cache.close()
