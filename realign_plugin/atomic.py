"""Files that are whole or absent: written under a temporary name, then renamed; and their sha256."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and move its files into place when the block ends well.

    Each file is renamed onto its final name, the largest first, so that an interrupted run leaves either the old file
    or the new one. Files of ``target`` that the block did not write stay as they are.

    Args:
        target: The folder to write into; made if it is missing.

    Yields:
        A temporary folder beside ``target``, on the same file system.

    Raises:
        UserError: If ``target`` is a file, or its parent cannot be written.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file, expected a folder to write to; give another path")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}), expected a writable folder") from error
    try:
        yield work
        target.mkdir(exist_ok=True)
        files = sorted((p for p in work.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)
        for path in files:
            final = target / path.relative_to(work)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
