"""Text files that users give, read in one place: encoding, lines, JSON, JSON Lines. A mistake is one line."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from realign_plugin.errors import UserError

T = TypeVar("T")
DEEPEST: Final = 200
"""Nesting depth of lists and objects; Python's own limit is about 1,000."""
LONGEST_NUMBER: Final = 300
"""Digits of a whole number; more do not fit a float."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class NotJsonError(ValueError):
    """Text that is not JSON.

    Attributes:
        reason: What is wrong.
        line: Where, from 1.
        column: Where in the line, from 1.
    """

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line} column {column}: {reason}")
        self.reason, self.line, self.column = reason, line, column


@dataclass(frozen=True)
class Broken:
    """Takes the place of a row that could not be read.

    Attributes:
        reason: Why not.
        column: Where in its line, from 1.
    """

    reason: str
    column: int = 1


def kind_of(value: object) -> str:
    """What a JSON value is, in words.

    Args:
        value: The value.
    """
    if value is None:
        return "null"
    for types, words in ((bool, "true or false"), (str, "text"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, types):
            return words
    return "an object"


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


DECODER: Final = json.JSONDecoder(parse_int=_integer)
"""Decodes as ``json`` does, NaN and infinity included, and raises ``ValueError`` for a number that fits no float."""


def parse_json(text: str, *, surrogates: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        surrogates: Whether halves of surrogate pairs are accepted, which cannot be printed or written; the caller
            then has to check each text itself.

    Raises:
        NotJsonError: If it is not JSON, or JSON that nothing here can hold.
    """
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise NotJsonError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise NotJsonError("brackets are nested too deeply") from None
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value, DEEPEST):
        raise NotJsonError("brackets are nested too deeply")
    if not surrogates and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotJsonError("half of a surrogate pair is not a character") from None
    return value


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested more deeply."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            part
            for outer in layer
            if isinstance(outer, (dict, list))
            for part in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True


def json_lines(lines: Iterable[str], *, surrogates: bool = False) -> Iterator[tuple[int, Any]]:
    r"""The values of JSON Lines, each with its line's number; ``Broken`` in place of one that is not JSON.

    Args:
        lines: An open file or ``io.StringIO``, which end a line at "\n". Not ``str.splitlines()``: U+2028, U+2029 and
            U+0085 may stand in a JSON text.
        surrogates: See ``parse_json``.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line.rstrip(), surrogates=surrogates)
        except NotJsonError as error:
            yield number, Broken(error.reason, error.column)


def encoding_of(start: bytes) -> str:
    """The encoding of a text by its first four bytes: UTF-8, or UTF-16 and UTF-32, with or without a mark.

    Args:
        start: The bytes; more are ignored.
    """
    return json.detect_encoding(start)


def read_text(path: Path, what: str, expected: str, fix: str = "check the file", *, whole_lines: bool = False) -> str:
    """The text of a file, plain or gzipped (``.gz``), in UTF-8 or UTF-16.

    Args:
        path: The file.
        what: What the user calls it: an option, or the file's role; empty if the path says it all.
        expected: What it should hold, for messages.
        fix: What to do, for messages.
        whole_lines: Whether a last line without its end, which may stop within a character, is left out.

    Raises:
        UserError: If it cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        if whole_lines:
            data = data[: data.rfind(b"\n") + 1]
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        reason = f"is not {error.encoding.upper()} text (byte {error.start})"
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise UserError(f"{_named(path, what)} {reason}, expected {expected}; {fix}")


def read_json(
    path: Path, what: str, expected: str, fix: str = "check the file", *, surrogates: bool = False
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: See ``read_text``.
        what: See ``read_text``.
        expected: See ``read_text``.
        fix: See ``read_text``.
        surrogates: See ``parse_json``.

    Raises:
        UserError: If it cannot be read, is not JSON, or holds something other than an object.
    """
    text = read_text(path, what, expected, fix)
    try:
        value = parse_json(text, surrogates=surrogates)
    except NotJsonError as error:
        raise UserError(f"{_named(path, what)} is not JSON ({error}), expected {expected}; {fix}") from error
    if not isinstance(value, dict):
        raise UserError(f"{_named(path, what)} holds {kind_of(value)}, expected {expected}; {fix}")
    return value


def json_option(text: str, option: str) -> dict[str, Any]:
    """The object that an option gives as JSON text.

    Args:
        text: What was given.
        option: Its name.

    Raises:
        UserError: If it is something else.
    """
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise UserError(
            f'{option}: {text[:200]!r} is not JSON ({error}), expected an object such as {{"judge": "off"}}; mind '
            "the quotes"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f'{option}: {text[:200]!r} is {kind_of(value)}, expected an object such as {{"judge": "off"}}; mind '
            "the quotes"
        )
    return value


def checked(kind: type[T], value: Any, where: str, fix: str) -> T:
    """A value in the shape that it must have.

    Args:
        kind: A pydantic model, a dataclass or a ``TypedDict``.
        value: The value.
        where: What the user calls it; starts the message.
        fix: What to do.

    Raises:
        UserError: For the first part that has another shape.
    """
    from pydantic import ValidationError

    try:
        found: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        given = "" if first["type"] == "missing" else f" is {str(first['input'])[:60]!r}"
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise UserError(f"{where}: {place}{given}, expected: {message}; {fix}") from error


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def text_lines(text: str) -> io.StringIO:
    r"""The lines of a text, which end at "\n" alone."""
    return io.StringIO(text)


def _named(path: Path, what: str) -> str:
    return f"{what}: {path}" if what else str(path)
