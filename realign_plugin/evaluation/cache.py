"""Verdicts on disk, as JSON: a second run costs nothing, and one that broke off goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError

NAME: Final = "verdicts"
BROKEN: Final = (sqlite3.DatabaseError, ValueError, KeyError, TypeError, zlib.error, OSError)


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


class VerdictCache:
    """The texts that judges gave, by request.

    Keys and values are JSON, nothing is pickled, and nothing is ever dropped. A folder that cannot be read is moved
    aside, which is said, and a new one is made. Several processes may use it at once.
    """

    def __init__(self, folder: Path) -> None:
        """Open the cache.

        Args:
            folder: Folder that holds it; made if missing. The cache itself is readable by the user alone.

        Raises:
            UserError: If the folder cannot be written.
        """
        self.folder = folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise UserError(
                f"judge_cache: {folder} cannot be written ({error.strerror}), expected a writable folder; give "
                "another one"
            ) from error
        try:
            self._cache = self._open()
            if self._cache._sql("PRAGMA quick_check").fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError("its check failed")
        except BROKEN as error:
            self._anew(error)

    def _open(self) -> Any:
        import diskcache

        return diskcache.Cache(str(self.folder), disk=_json_disk(), eviction_policy="none", size_limit=2**50)

    def _anew(self, error: BaseException) -> None:
        aside = self.folder.with_name(f"{NAME}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
        self.folder.rename(aside)
        self.folder.mkdir(mode=0o700)
        self._cache = self._open()
        print(
            f"realign-plugin: the judge's cache was corrupt ({error}); it is now {aside}, a new one is made",
            file=sys.stderr,
        )

    def get(self, key: str) -> str | None:
        """The text kept for a key, or None."""
        try:
            value = self._cache.get(key)
        except BROKEN as error:
            self._anew(error)
            return None
        return value if isinstance(value, str) else None

    def put(self, key: str, text: str) -> None:
        """Keep a text."""
        try:
            self._cache.set(key, text)
        except BROKEN as error:
            self._anew(error)
            self._cache.set(key, text)

    def close(self) -> None:
        """Close the files."""
        self._cache.close()
