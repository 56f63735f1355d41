"""One row of a source: its columns by name, and what they must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realign_plugin.text_files import kind_of


class BadRowError(Exception):
    """A malformed row; its text is the reason that is counted."""


class NoAnswerError(BadRowError):
    """A conversation that ends with a request."""


class DroppedError(Exception):
    """A valid row that does not belong in the data set; its text is the reason that is counted."""


class MissingColumnsError(Exception):
    """A row without the columns that are needed; its text says which those are."""


def checked_text(value: object, name: str) -> str:
    """A value that must be text.

    Args:
        value: The value.
        name: What it is, for the reason.

    Raises:
        BadRowError: If it is not text, or text that UTF-8 cannot hold (halves of surrogate pairs, broken bytes).
    """
    if not isinstance(value, str):
        raise BadRowError(f"{name} is {kind_of(value)}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{name} is not UTF-8 text") from error
    return value


class Row:
    """The columns of one row, found by name, ignoring case.

    Args:
        values: The row as it was read.
    """

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = {str(name).strip().lower(): value for name, value in values.items()}

    def has(self, *names: str) -> bool:
        """Whether the row has all these columns, whatever they hold."""
        return all(name in self._values for name in names)

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of these columns that the row has; None where it has none."""
        return next((name for name in names if name in self._values), None)

    def value(self, name: str) -> Any:
        """What a column holds; None where it is missing."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """What a text column holds.

        Raises:
            BadRowError: If it holds no text.
        """
        return checked_text(self._values.get(name), name)

    def optional_text(self, name: str) -> str:
        """As ``text``, but empty where the column is missing or null."""
        return "" if self._values.get(name) is None else self.text(name)

    def truth(self, name: str) -> bool:
        """What a column of truth values holds; CSV files write them as words or digits.

        Raises:
            BadRowError: If it does not hold a truth value.
        """
        value = self._values.get(name)
        if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
            return value.strip().lower() in ("true", "1")
        if isinstance(value, (bool, int)) and value in (0, 1):
            return bool(value)
        raise BadRowError(f"{name} is {kind_of(value)}, expected true or false")

    def answer_number(self, name: str) -> int | None:
        """Which of two answers a column names, 0 or 1; None where it is missing, null or something else."""
        value = self._values.get(name)
        if isinstance(value, str) and value.strip() in ("0", "1"):
            return int(value)
        return int(value) if isinstance(value, int) and value in (0, 1) else None
