"""Arrays read one value at a time are what ``json`` reads at once, and errors are where ``json`` puts them."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realign_plugin.data.rows.json_arrays import ArrayReader
from realign_plugin.errors import UserError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
SPACE = st.text(" \t\n\r", max_size=4)


@st.composite
def spaced(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON, with white space wherever it may be."""
    before, after = draw(SPACE), draw(SPACE)
    if isinstance(value, list):
        return before + "[" + draw(SPACE) + ",".join(draw(spaced(item)) for item in value) + "]" + after
    if isinstance(value, dict):
        parts = [f"{draw(SPACE)}{json.dumps(key)}{draw(SPACE)}:{draw(spaced(item))}" for key, item in value.items()]
        return before + "{" + draw(SPACE) + ",".join(parts) + "}" + after
    return before + json.dumps(value, ensure_ascii=draw(st.booleans())) + after


def read(text: str, chunk: int) -> list[tuple[int, Any]]:
    return list(ArrayReader(io.StringIO(text, newline=""), "x.json", chunk))


@given(st.lists(VALUES, max_size=6).flatmap(spaced), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_it_reads_what_json_reads(text: str, chunk: int) -> None:
    assert [value for _, value in read(text, chunk)] == json.loads(text)


@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(SPACE, min_size=5, max_size=5), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_lines_are_where_values_begin(rows: list[Any], spaces: list[str], chunk: int) -> None:
    text, expected = "[", []
    for number, (row, space) in enumerate(zip(rows, spaces, strict=False)):
        text += ("," if number else "") + space
        expected.append(1 + text.count("\n"))
        text += json.dumps(row, indent=1)
    assert [line for line, _ in read(text + "\n]", chunk)] == expected


@given(st.lists(VALUES, min_size=1, max_size=4).flatmap(spaced), st.data(), st.integers(1, 40))
@example('[1, "a', None, 3)
@example("[1, tru]", None, 1)
@example("[0.5, 1e-7, -0.0e+1]", None, 1)
@example("[[1], nul", None, 2)
@example('["\\u12"]', None, 2)
@example("[1 2]", None, 2)
@example("[1,]", None, 2)
@example("[1]]", None, 2)
@settings(max_examples=100, deadline=None)
def test_broken_text_is_refused_with_json_s_own_place(text: str, data: Any, chunk: int) -> None:
    if data is not None:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(["", "]", "}", ",", '"', "x", "\\"])) + text[at + 1 :]
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(UserError, match=r"x.json is not a JSON array: line \d+ column \d+") as caught:
            read(text, chunk)
        assert "\n" not in str(caught.value)
    else:
        if isinstance(whole, list):
            assert [value for _, value in read(text, chunk)] == whole
        else:
            with pytest.raises(UserError, match="expected the \\["):
                read(text, chunk)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1 column 1"),
        ("\n\n kites", "line 3 column 2"),
        ('[\n {"a": 1},\n {"a": b}\n]', "line 3 column 8"),
        ('[\n {"a": 1}\n {"a": 2}\n]', "line 3 column 2"),
        ('[{"a": 1}]\n[]', "line 2 column 1"),
        ('[{"a": 1},\n', "line 2 column 1"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_the_place_of_a_mistake(text: str, place: str, chunk: int) -> None:
    with pytest.raises(UserError, match=f"{place}:"):
        read(text, chunk)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "1" * 5000 + "]"])
def test_values_that_python_cannot_hold(text: str) -> None:
    with pytest.raises(UserError, match="line 1 column 2: a value cannot be read"):
        read(text, 1 << 16)


def test_constants_of_python_s_json() -> None:
    values = [value for _, value in read("[NaN, -Infinity, Infinity]", 2)]
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, math.inf]


def test_only_what_is_needed_is_read() -> None:
    file = io.StringIO("[" + ",\n".join(["1"] * 10_000) + "]")
    rows = iter(ArrayReader(file, "x.json", chunk=16))
    next(rows)
    assert file.tell() <= 64
