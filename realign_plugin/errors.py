"""The one error that a user's mistake raises."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """A mistake in what the user gave: one line with the value, what was expected and how to fix it.

    Command lines print the message and exit with code 2, without a traceback.
    """

    exit_code = 2


def reason(error: Exception, width: int = 120) -> str:
    """What another library's error says, on one line and cut at a word."""
    text = str(error).strip().strip("*")  # nltk frames its errors
    return textwrap.shorten(text, width, placeholder=" …") or type(error).__name__


def cannot_load(option: str, model: str | Path, error: Exception) -> UserError:
    """The error for a chat model that transformers does not load.

    Args:
        option: The option's name, as the user wrote it.
        model: The folder or hub id given.
        error: What transformers raised.
    """
    missing = str(model).startswith(("/", ".", "~")) and not Path(model).exists()
    why = "the folder does not exist" if missing else reason(error)
    return UserError(
        f"{option}: {model} cannot be loaded ({why}), expected a chat model's folder or hub id; check the name"
    )


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of the choices, naming the closest one.

    Args:
        name: The option's name, as the user wrote it.
        value: The value given.
        choices: The values allowed.

    Raises:
        UserError: If ``value`` is not among ``choices``.
    """
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{name}: {value!r} is unknown, expected one of {', '.join(known)}{hint}")


def check_range(name: str, value: float, low: float, high: float, *, low_open: bool = False, fix: str = "") -> None:
    """Refuse a number outside an interval (NaN included).

    Args:
        name: The option's name, as the user wrote it.
        value: The number given.
        low: Lower bound, allowed itself unless ``low_open``.
        high: Upper bound, allowed itself.
        low_open: Whether ``low`` itself is refused.
        fix: What to do instead, appended to the message.

    Raises:
        UserError: If the number is outside the interval.
    """
    ok = isinstance(value, (int, float)) and (low < value if low_open else low <= value) and value <= high
    if not ok:
        bracket = "(" if low_open else "["
        raise UserError(
            f"{name}: {value!r} is out of range, expected {bracket}{low:g}, {high:g}]{'; ' + fix if fix else ''}"
        )


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, in a few words: field, value, and what was expected."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"]) or "value"
    message = fault["msg"].removeprefix("Input should be ")
    return f"{name}: {str(fault['input'])[:80]!r}, expected {message}"
