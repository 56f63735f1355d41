"""Local files of every kind, row by row."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data.rows.reading import Broken, FileRows
from realign_plugin.errors import UserError
from realign_plugin.evaluation.data import read_rows
from tests.data.conftest import write_array, write_lines

ROWS = [{"prompt": "a kite?\u2028", "answer": "纸"}, {"prompt": "bread", "answer": 'say "no"\nthen'}]


def save(path: Path) -> Path:
    kind = path.name.split(".", 1)[1]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    plain = path.with_name("plain." + kind.removesuffix(".gz"))
    if kind.startswith("csv"):
        with open(plain, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["prompt", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        (write_lines if kind.startswith("jsonl") else write_array)(plain, ROWS)
    data = plain.read_bytes()
    path.write_bytes(gzip.compress(data, mtime=0) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("x.json", [2, 6]),
        ("x.json.gz", [2, 6]),
        ("x.jsonl", [1, 2]),
        ("x.jsonl.gz", [1, 2]),
        ("x.csv", [2, 3]),
        ("x.csv.gz", [2, 3]),
        ("x.parquet", [1, 2]),
        ("X.JSON", [2, 6]),
    ],
)
def test_every_kind_gives_the_rows_and_their_places(tmp_path: Path, name: str, places: list[int]) -> None:
    rows = FileRows(save(tmp_path / name) if name.islower() else write_array(tmp_path / name, ROWS))
    assert list(rows) == list(zip(places, ROWS, strict=True))
    assert rows.unit == ("row" if "parquet" in name else "line")


def test_broken_lines_are_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "1"}\r\n\r\n{"a": \n7\n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"a": "2"}')
    found = list(FileRows(file))
    assert found[:2] == [(1, {"a": "1"}), (3, Broken("broken JSON"))]
    assert found[2] == (4, 7)
    assert found[3] == (5, {"a": "\udcff"})
    assert found[4:] == [(6, Broken("broken JSON")), (7, {"a": "2"})]


def test_broken_fields_of_csv(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('a,b\n1,2\n3\n"4\n4",5\n\n6,7,8\n9,10\n')
    reason = Broken("not as many fields as the header")
    found = list(FileRows(file))
    assert found == [
        (2, {"a": "1", "b": "2"}),
        (3, reason),
        (4, {"a": "4\n4", "b": "5"}),
        (7, reason),
        (8, {"a": "9", "b": "10"}),
    ]


def test_a_row_of_csv_with_words_behind_a_quote(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('a,b\n"1"x,2\nsay "hi" ,"say ""hi"""\n"","\n"\n')
    assert list(FileRows(file)) == [
        (2, Broken("broken CSV")), (3, {"a": 'say "hi" ', "b": 'say "hi"'}), (4, {"a": "", "b": "\n"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a,b\n1,2\n3,"take paper and fo', "line 3: a quote is not closed"),
        ('a,b\n1,2\n3,"take\npaper\n', "line 3: a quote is not closed"),
        ('a,b\n1,2\n3,"take\n5,"fold"\n6,7\n', "line 3: a quote is not closed"),
        ('a,"b\n1,2\n', "line 1: a quote is not closed"),
        ('"a"x,b\n1,2\n', "line 1: a quote is not closed"),
        ("a,b, B\n1,2,3\n", "line 1: the header has 'b' twice"),
    ],
)
def test_csv_that_is_broken_as_a_whole(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"--source: x\.csv is not CSV: {told}.*, expected a whole file") as caught:
        list(FileRows(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=rf"safety_data: .*x\.csv is not CSV \({told}.*expected prompts"):
        read_rows(file)


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,,\n1,2,3\n")
    assert list(FileRows(file)) == [(2, {"a": "1", "": "3"})]


def test_json_files_that_hold_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('\n{"a": "1"}\n{"a"\n{"a": "2"}\n')
    assert list(FileRows(file)) == [(2, {"a": "1"}), (3, Broken("broken JSON")), (4, {"a": "2"})]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.json", b"a kite\n", r"x.json is not a JSON array: line 1 column 1: expected the \["),
        ("x.json", b"\xff\xfe[\x00", "x.json is not a JSON array: line 1 column 2"),
        ("x.json", b'\xff\xfe[\x00"', "x.json ends in the middle of a character of UTF-16"),
        ("x.json", b'{\n "data": [1]\n}', "x.json is not JSON: line 1 column 2: expected an array of rows"),
        ("x.jsonl", b"\na kite\nbread\n", "x.jsonl is not JSON: line 2 column 1: expected one object a line"),
        ("x.jsonl.gz", b"plain", r"x.jsonl.gz cannot be read \(Not a gzipped file"),
        ("x.jsonl.gz", gzip.compress(b'{"a": "1"}\n' * 999, mtime=0)[:-20], "expected a whole .jsonl.gz file"),
        ("x.parquet", b"PAR1 nothing", "x.parquet is not a parquet file"),
        ("x.txt", b"", "x.txt has no known suffix, expected one of .json, .jsonl, .csv, .parquet"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(FileRows(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_position_rises_to_the_size(tmp_path: Path) -> None:
    rows = FileRows(write_lines(tmp_path / "x.jsonl", [{"a": "x" * 1000}] * 500))
    positions = [rows.position for _ in rows]
    assert positions == sorted(positions)
    assert 0 < positions[0] < rows.size
    assert positions[-1] == rows.size


def test_long_files_need_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    row: dict[str, Any] = {"prompt": "x" * 500, "answer": "y" * 500}
    file = tmp_path / "x.json"
    file.write_text("[" + ",\n".join([json.dumps(row)] * 20_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in FileRows(file)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size / 20
