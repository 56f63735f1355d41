"""Verdicts on disk: a second run costs nothing, and an interrupted one resumes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
FAILURES: Final = (*BROKEN, OSError)
"""What a cache may raise: damage, a full disk, a lock that is not released."""
DATABASE: Final = "cache.db"
DISKCACHE: Final = "SELECT key, value, filename FROM Cache WHERE raw = 1 AND mode IN (1, 2)"
"""Entries that an earlier version wrote by way of diskcache: compressed JSON, large ones in a file of their own."""


def key_of(**parts: Any) -> str:
    """Key of a request: sha256 of everything that the answer depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _corrupt(error: BaseException) -> bool:
    """Whether a file is damaged, as against locked, read-only or on a full disk."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error) or "malformed" in str(error)
    return isinstance(error, BROKEN)


def _unpacked(value: bytes) -> str:
    """A text as diskcache's JSON disk keeps it."""
    return _whole(json.loads(zlib.decompress(value)))


def _whole(text: str) -> str:
    """A text without half characters (lone surrogates), which no database takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class VerdictCache:
    """The texts that judges gave, by request, in an SQLite database.

    Nothing is ever dropped. A folder that cannot be read is moved
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
            except FAILURES as error:
                if last or not (_corrupt(error) or self._moved()):
                    raise UserError(
                        f"judge_cache: {folder} cannot be written ({_said(error)}), expected a writable folder; give "
                        "another one"
                    ) from error
                self._move_aside(error)

    def _open(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.with_name(ASKING).mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        self._inode = self.folder.stat().st_ino
        self._database = sqlite3.connect(
            self.folder / DATABASE, timeout=TIMEOUT, isolation_level=None, check_same_thread=False
        )
        with suppress(sqlite3.OperationalError):  # another process is doing it
            self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if self._database.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
            raise sqlite3.DatabaseError("its check failed")
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "verdicts" not in tables:
            self._create(earlier="Cache" in tables)

    def _create(self, earlier: bool) -> None:
        """Make the table, with what an earlier version kept; never with a pickle."""
        found = self._database.execute(DISKCACHE).fetchall() if earlier else []
        texts = [(_unpacked(key), _unpacked(value or (self.folder / file).read_bytes())) for key, value, file in found]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
        self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", texts)
        self._database.execute("COMMIT")

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

    def _renew(self, error: BaseException) -> bool:
        """After an error: a new cache where the old one is damaged; else say once that nothing more is kept."""
        if _corrupt(error):
            self._move_aside(error)
            try:
                self._open()
                return True
            except FAILURES as again:
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
            found = self._database.execute("SELECT text FROM verdicts WHERE key = ?", (key,)).fetchone()
        except FAILURES as error:
            self._renew(error)
            return None
        return None if found is None else str(found[0])

    def put(self, key: str, text: str) -> None:
        """Keep a text, if the disk takes it."""
        for first in (True, False):
            if not self._keeping:
                return
            try:
                self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, _whole(text)))
                return
            except FAILURES as error:
                if not (self._renew(error) and first):
                    return

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
        self._database.close()
