"""The rows of one half of a data set, training or validation, as they are collected and as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from realign_plugin.data.rows.examples import Example, as_conversation
from realign_plugin.data.selection import Smallest, folded, keyed_hash

EXTRAS: Final[dict[str, Any]] = {"system": "", "history": [], "tools": ""}
"""Columns that only some rows have, and what the others hold once one row has it."""
ROLES: Final = "roles"
"""Column of rows with a tool's turns; where one has it, all rows are written in the sharegpt layout."""


class Half:
    """Takes examples, keeps their text in a file, and in memory some numbers for each.

    Args:
        work: File for the rows as they come; removed with the folder that it is in.
        seed: Key of the limit.
        limit: How many rows are kept, those with the smallest keyed hashes; None keeps all.
    """

    def __init__(self, work: Path, seed: int, limit: int | None = None) -> None:
        self._file: BinaryIO = open(work, "w+b")  # noqa: SIM115 (closed by __exit__)
        self._seed = seed
        self._chosen = None if limit is None else Smallest(limit)
        self._count = 0
        self._prompts: set[int] = set()
        self._seen_extras: set[str] = set()

    def __enter__(self) -> Half:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count if self._chosen is None else len(self._chosen)

    @property
    def distinct_prompts(self) -> int:
        """How many distinct prompts there are, ignoring case and white space."""
        return len(self._prompts if self._chosen is None else self._chosen.prompts())

    def add(self, example: Example) -> None:
        """Take an example; with a limit, its text is kept only if it is among the chosen ones so far."""
        prompt = keyed_hash(0, "prompt", folded(example.prompt.text))
        if self._chosen is None:
            self._count += 1
            self._prompts.add(prompt)
        else:
            value = keyed_hash(self._seed, "limit", *example.key)
            if not self._chosen.enters(value):
                return
            self._chosen.add(value, self._file.tell(), prompt)
        row = example.row()
        self._seen_extras.update(row.keys() & {*EXTRAS, ROLES})
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def write(self, out: Path) -> set[str]:
        """Write the rows, in the order in which they came.

        All rows get the same columns. The first row with a history goes first: readers that infer the columns' types
        from the first rows (datasets does) take a column of empty lists for one of nulls, and fail at a later turn.

        Args:
            out: JSON Lines file to write.

        Returns:
            Which of the columns ``system``, ``history`` and ``tools`` it has, and ``roles`` for the sharegpt layout.
        """
        extras: set[str] = set()
        if self._seen_extras:
            for line in self._lines():
                extras |= json.loads(line).keys() & {*EXTRAS, ROLES}
        with open(out, "wb") as file:
            if not extras:
                file.writelines(self._lines())
                return extras
            fill = {name: value for name, value in EXTRAS.items() if name in extras}
            first = next((n for n, line in enumerate(self._lines()) if json.loads(line).get("history")), 0)
            order = (
                line for wanted in (True, False) for n, line in enumerate(self._lines()) if (n == first) is wanted
            )
            for line in order:
                row = json.loads(line)
                filled = {name: value for name, value in row.items() if name not in fill}
                filled |= {name: row.get(name, value) for name, value in fill.items()}
                filled = as_conversation(filled) if ROLES in extras else filled
                file.write(json.dumps(filled, ensure_ascii=False).encode() + b"\n")
        return extras

    def _lines(self) -> Iterator[bytes]:
        if self._chosen is None:
            self._file.seek(0)
            # Not "yield from" the file itself: that would close it with the generator.
            yield from iter(self._file.readline, b"")
            return
        for place in self._chosen.places():
            self._file.seek(place)
            yield self._file.readline()
