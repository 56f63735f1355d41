"""Rows of a local file, one at a time, each with the line on which it begins."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from realign_plugin.data.json_arrays import ArrayReader
from realign_plugin.errors import UserError

SUFFIXES: Final = (".json", ".jsonl", ".csv", ".parquet", ".json.gz", ".jsonl.gz", ".csv.gz")
BATCH: Final = 256
LONGEST_FIELD: Final = 1 << 24


@dataclass(frozen=True)
class Broken:
    """What stands in place of a row that could not be read.

    Attributes:
        reason: Why not.
    """

    reason: str


def suffix_of(name: str) -> str | None:
    """The suffix, of those that can be read, of a file's name; None where it has none of them."""
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), None)


class FileRows:
    """Iterates over the rows of a local file: ``(line, row)``, where a row is any value or ``Broken``.

    JSON arrays, JSON Lines and CSV are read as they are needed, parquet in batches of rows. A ``.json`` file that
    begins with an object is taken for JSON Lines. Bytes that are no UTF-8 become halves of surrogate pairs, which
    ``columns.checked_text`` refuses row by row.

    Args:
        path: The file.

    Attributes:
        unit: What the number of a row counts: ``line``, or ``row`` in parquet files.
        size: Bytes of the file.

    Raises:
        UserError: If the suffix is none of ``SUFFIXES``; while iterating: if the file cannot be read, or is not at all
            what its suffix says.
    """

    def __init__(self, path: Path) -> None:
        suffix = suffix_of(path.name)
        if suffix is None:
            raise UserError(f"--source: {path.name} has no known suffix, expected one of {', '.join(SUFFIXES)}")
        self.path = path
        self.suffix = suffix
        self.unit = "row" if suffix == ".parquet" else "line"
        self.size = path.stat().st_size
        self._raw: BinaryIO | None = None

    @property
    def position(self) -> int:
        """Bytes that were read so far."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield each row with its line."""
        try:
            with open(self.path, "rb") as raw:
                self._raw = raw
                if self.suffix == ".parquet":
                    yield from self._parquet(raw)
                    return
                plain = gzip.GzipFile(fileobj=raw) if self.suffix.endswith(".gz") else raw
                kind = self.suffix.removesuffix(".gz")
                newline = None if kind == ".jsonl" else ""
                with io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
                    if kind == ".csv":
                        yield from self._csv(text)
                    elif kind == ".json" and self._first_character() != "{":
                        yield from ArrayReader(text, self.path.name)
                    else:
                        yield from self._lines(text)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"--source: {self.path.name} cannot be read ({reason}), expected a whole {self.suffix} file; save it "
                "again"
            ) from error

    def _first_character(self) -> str:
        opened = gzip.open if self.suffix.endswith(".gz") else open
        with opened(self.path, "rt", encoding="utf-8-sig", errors="surrogateescape") as text:
            while part := text.read(4096):
                if part.strip():
                    return str(part.lstrip()[0])
        return ""

    def _lines(self, text: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
        first_break = ""
        sound = 0
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                column = 1 + min(getattr(error, "pos", 0), len(line.rstrip()))
                first_break = first_break or f"line {number} column {column}"
                if self.suffix.startswith(".json") and not self.suffix.startswith(".jsonl") and not sound:
                    raise self._not_json(first_break, "an array of rows, or one object a line") from error
                yield number, Broken("broken JSON")
            else:
                sound += 1
                yield number, value
        if first_break and not sound:
            raise self._not_json(first_break, "one object a line")

    def _not_json(self, place: str, expected: str) -> UserError:
        return UserError(f"--source: {self.path.name} is no JSON: {place}: expected {expected}; check the file")

    def _csv(self, text: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(text)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield line, Broken("broken CSV")
                continue
            if not fields:
                continue
            if header is None:
                header = fields
            elif len(fields) != len(header):
                yield line, Broken("not as many fields as the header")
            else:
                yield line, dict(zip(header, fields, strict=True))

    def _parquet(self, raw: BinaryIO) -> Iterator[tuple[int, Any]]:
        try:
            from pyarrow import ArrowException  # type: ignore[import-untyped]
            from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
        except ImportError as error:
            raise UserError(
                f"--source: {self.path.name} needs pyarrow, expected it to be installed; pip install pyarrow"
            ) from error
        number = 0
        try:
            for batch in ParquetFile(raw).iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (ArrowException, UnicodeDecodeError) as error:
            raise UserError(
                f"--source: {self.path.name} is no parquet file ({type(error).__name__} after row {number}), expected "
                "a whole one; save it again"
            ) from error
