"""Rows of a local file, one at a time, each with the line on which it begins."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from realign_plugin.csv_files import NotCsvError, csv_rows
from realign_plugin.data.rows.json_arrays import ArrayReader
from realign_plugin.errors import UserError
from realign_plugin.text_files import Broken, encoding_of, json_lines

SUFFIXES: Final = (".json", ".jsonl", ".csv", ".parquet", ".json.gz", ".jsonl.gz", ".csv.gz")
BATCH: Final = 256


def suffix_of(name: str) -> str | None:
    """The suffix, of those that can be read, of a file's name; None where it has none of them."""
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), None)


class FileRows:
    """Iterates over the rows of a local file: ``(line, row)``, where a row is any value or ``Broken``.

    JSON arrays, JSON Lines and CSV are read as they are needed, parquet in batches of rows. A ``.json`` file that
    begins with an object is taken for JSON Lines. Text is UTF-8 or UTF-16; bytes that are not become halves of
    surrogate pairs, which ``columns.checked_text`` refuses row by row.

    Args:
        path: The file.

    Attributes:
        unit: What the number of a row counts: ``line``, or ``row`` in parquet files.
        size: Bytes of the file.

    Raises:
        UserError: If the suffix is none of ``SUFFIXES``; while iterating: if the file cannot be read, or does not
            match its suffix.
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
                with self._text(raw) as text:
                    if self.suffix.startswith(".csv"):
                        yield from csv_rows(text)
                    elif self.suffix.startswith(".jsonl") or self._first_character() == "{":
                        yield from self._lines(text)
                    else:
                        yield from ArrayReader(text, self.path.name)
        except NotCsvError as error:
            raise UserError(
                f"--source: {self.path.name} is not CSV: {error}, expected a whole file with closed quotes and "
                "columns of different names; correct it"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"--source: {self.path.name} ends in the middle of a character of {error.encoding.upper()}, "
                "expected a whole "
                f"{self.suffix} file; save it again, in UTF-8"
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"--source: {self.path.name} cannot be read ({reason}), expected a whole {self.suffix} file; save it "
                "again"
            ) from error

    def _text(self, raw: BinaryIO) -> io.TextIOWrapper:
        r"""The file's text, unpacked; only "\n" ends a line, and csv sees line ends as they are."""
        plain: BinaryIO = gzip.GzipFile(fileobj=raw) if self.suffix.endswith(".gz") else raw  # type: ignore[assignment]
        encoding = encoding_of(plain.read(4))
        plain.seek(0)
        newline = "" if self.suffix.startswith(".csv") else "\n"
        return io.TextIOWrapper(plain, encoding=encoding, errors="surrogateescape", newline=newline)

    def _first_character(self) -> str:
        with open(self.path, "rb") as raw, self._text(raw) as text:
            while part := text.read(4096):
                if part.strip():
                    return str(part.lstrip()[0])
        return ""

    def _lines(self, text: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
        first_break = ""
        sound = 0
        for number, value in json_lines(text, surrogates=True):
            if not isinstance(value, Broken):
                sound += 1
                yield number, value
                continue
            first_break = first_break or f"line {number} column {value.column}"
            if not self.suffix.startswith(".jsonl") and not sound:
                raise self._not_json(first_break, "an array of rows, or one object a line")
            yield number, Broken("broken JSON")
        if first_break and not sound:
            raise self._not_json(first_break, "one object a line")

    def _not_json(self, place: str, expected: str) -> UserError:
        return UserError(f"--source: {self.path.name} is not JSON: {place}: expected {expected}; check the file")

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
                f"--source: {self.path.name} is not a parquet file ({type(error).__name__} after row {number}), "
                "expected a whole one; save it again"
            ) from error
