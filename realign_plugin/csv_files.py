"""CSV files that users give: their rows, or why they are none."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from realign_plugin.text_files import Broken

LONGEST_FIELD: Final = 1 << 24
"""Characters of a CSV field."""


class NotCsvError(ValueError):
    """Text that is not CSV as a whole; says where."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(f"line {line}: {reason}")


def csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV text below its header, each with its first line's number; ``Broken`` in place of a bad one.

    Args:
        lines: A file opened with ``newline=""``.

    Raises:
        NotCsvError: If a field in quotes goes on over lines and does not end well, so that rows may be lost in it; or
            if columns have the same name.
    """
    csv.field_size_limit(LONGEST_FIELD)
    ends: list[bool] = []
    reader = csv.reader(chain(lines, _noted(ends)), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if ends or reader.line_num > line or header is None:
                raise NotCsvError("a quote is not closed where it should be", line) from error
            yield line, Broken("broken CSV")
            continue
        if not fields:
            continue
        if header is None:
            header = fields
            names = Counter(name.strip().lower() for name in header)
            if twice := next((name for name, count in names.items() if name and count > 1), None):
                raise NotCsvError(f"the header has {twice[:40]!r} twice", line)
        elif len(fields) != len(header):
            yield line, Broken("not as many fields as the header")
        else:
            yield line, dict(zip(header, fields, strict=True))


def _noted(ends: list[bool]) -> Iterator[str]:
    """No lines; notes that the end was reached."""
    ends.append(True)
    yield from ()
