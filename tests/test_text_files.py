from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from realign_plugin.csv_files import csv_rows
from realign_plugin.errors import UserError
from realign_plugin.text_files import (
    Broken,
    NotJsonError,
    checked,
    json_lines,
    json_option,
    parse_json,
    read_json,
    read_text,
    text_lines,
)

LINE_ENDS = ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
"""What str.splitlines() takes for the end of a line, and JSON Lines and CSV do not."""


@pytest.mark.parametrize("letter", LINE_ENDS)
def test_a_line_ends_at_the_line_feed_only(letter: str) -> None:
    rows = [{"prompt": f"a{letter}b"}, {"prompt": "c"}]
    text = "".join(
        json.dumps(row, ensure_ascii=letter < " ") + end for row, end in zip(rows, ("\r\n", "\n"), strict=True)
    )
    assert [value for _, value in json_lines(text_lines(text))] == rows
    table = f'prompt,category\r\n"a{letter}b",x\r\nc{letter},"y\nz"\r\n'
    found = list(csv_rows(io.StringIO(table, newline="")))
    assert found == [
        (2, {"prompt": f"a{letter}b", "category": "x"}),
        (3, {"prompt": f"c{letter}", "category": "y\nz"}),
    ]


def test_lines_keep_their_numbers() -> None:
    found = list(json_lines(text_lines('\n1\n  \n{"a" 1}\n[\n"b"')))
    assert found[0] == (2, 1)
    assert found[1] == (4, Broken("Expecting ':' delimiter", 6))
    assert found[2][0] == 5
    assert isinstance(found[2][1], Broken)
    assert found[3] == (6, "b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_told_by_their_first_bytes(tmp_path: Path, encoding: str) -> None:
    file, packed = tmp_path / "x.json", tmp_path / "x.json.gz"
    file.write_bytes('{"a": "纸\u2028"}'.encode(encoding))
    packed.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    assert read_json(file, "x", "an object") == read_json(packed, "x", "an object") == {"a": "纸\u2028"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 column 1: Expecting value"),
        ('{"a": 1,\n"b"}', "line 2 column 4: Expecting ':'"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 300 + "]" * 300, "nested too deeply"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested too deeply"),
        ("1" * 5000, "a number of 5,000 digits"),
        ('{"a": -' + "1" * 400 + "}", "a number of 401 digits"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_not_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NotJsonError, match=message):
        parse_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(
        UserError, match=f"^x: .*x.json is not JSON .*{message}.*, expected an object; fix it$"
    ) as error:
        read_json(tmp_path / "x.json", "x", "an object", "fix it")
    assert "\n" not in str(error.value)


def test_what_is_json() -> None:
    assert parse_json('"\\ud83d\\ude00 \\\\ud800"') == "\N{GRINNING FACE} \\ud800"
    assert parse_json('"\\ud800"', surrogates=True) == "\ud800"
    assert parse_json("[" * 150 + "]" * 150)
    assert parse_json("[" + "[]," * 1000 + "[]]")
    assert parse_json("[NaN, 1e999]")[1] == float("inf")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", "x.json holds a list, expected an object"),
        (b'"text"', "x.json holds text, expected"),
        (b"null", "x.json holds null, expected"),
        (b'{"a": "\x80"}', r"x.json is not UTF-8 text \(byte 7\)"),
        (b"\xff\xfe{\x00\x00", r"x.json is not UTF-16.* text \(byte"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json", "", "an object")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"{}" * 999, mtime=0)[:-12])
    for name, reason in {
        "gone": "No such file", ".": "Is a directory", "x" * 300: "name too long", "x\x00": "null byte",
        "x.gz": "end-of-stream",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"cannot be read .*{reason}.*expected words; check the file"):
            read_text(tmp_path / name, "x", "words")


class Shape(TypedDict, total=False):
    numbers: list[int]


def test_shapes() -> None:
    assert checked(Shape, {"numbers": [1]}, "x", "fix it") == {"numbers": [1]}
    with pytest.raises(
        UserError, match=r"^x: numbers\.1 is 'a', expected: input should be a valid integer.*; fix it$"
    ):
        checked(Shape, {"numbers": [1, "a"]}, "x", "fix it")


@pytest.mark.parametrize(
    "text", ["[1]", "1", '"judge"', "null", "{", "", "{'a': 1}", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_options_that_are_not_an_object(text: str) -> None:
    with pytest.raises(UserError, match=r"^--metadata: .* expected an object such as .*; mind the quotes$") as error:
        json_option(text, "--metadata")
    assert len(str(error.value)) < 500


def test_an_option() -> None:
    found: dict[str, Any] = json_option('{"judge": "off"}', "--metadata")
    assert found == {"judge": "off"}
