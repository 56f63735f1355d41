"""``realign data …``: every mistake in one line, a full disk, and what a terminal shows."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data import halves
from tests.data.conftest import Run, labelled_pairs, read_lines, write_array, write_lines

MISTAKES = [
    (["sft", "{d}", "--task", "gsm8"], "--task: 'gsm8' is unknown, expected one of alpaca_en"),
    (["sft", "{d}", "--task", "gsm8"], "did you mean 'gsm8k'"),
    (["contrast", "{d}", "--source", "alpaca_n", "--name", "x"], "did you mean 'alpaca_en'"),
    (["preference", "{d}", "--source", "{x}"], "x.json has the columns text, number, expected prompt with chosen"),
    (["preference", "{d}", "--source", "{plain}"], "plain.json is not a JSON array: line 1 column 1"),
    (["preference", "{d}", "--source", "nowhere.json"], "--source: nowhere.json does not exist"),
    (["preference", "{d}", "--source", "{p}", "--validation", "1"], "--validation: 1 is out of range"),
    (["preference", "{d}", "--source", "{p}", "--validation", "nan"], "--validation: nan is out of range"),
    (["preference", "{d}", "--source", "{p}", "--validation", "-0.1"], "--validation: -0.1 is out of range"),
    (["preference", "{d}", "--source", "{p}", "--validation", "1e-9"], "leaves no validation row"),
    (["preference", "{d}", "--source", "{p}", "--limit", "0"], "--limit: 0 is out of range, expected at least 1"),
    (["preference", "{d}", "--source", "{p}", "--name", "a/b"], "--name: 'a/b' cannot name a data set"),
    (["preference", "{d}", "--source", "{p}", "--name", "a,b"], "--name: 'a,b' cannot name a data set"),
    (["preference", "{d}", "--source", "{p}", "--split", "test"], "--split: 'test' with the file pairs.jsonl"),
    (["preference", "{p}", "--source", "{p}"], "pairs.jsonl: is a file, expected a folder to write to"),
    (["preference", "{p}/deeper", "--source", "{p}"], "cannot be written (Not a directory)"),
    (["preference", "{d}", "--source", "{safe}"], "no row is left of 3 read (both answers safe 3), expected at least"),
    (["preference", "{d}", "--source", "{empty}"], "no row is left of 0 read (no rows)"),
    (["sft", "{d}", "--task", "harmful", "--source", "{p}", "--share", "0.1"], "--share without --of"),
    (["sft", "{d}", "--task", "harmful", "--source", "{p}", "--of", "a"], "--of without --share"),
    (["sft", "{d}", "--task", "harmful", "--share", "1.5", "--of", "a"], "--share: 1.5 is out of range"),
    (["sft", "{d}", "--task", "harmful", "--share", ".1", "--of", "a"], "--of: 'a' has no card in"),
    (["sft", "{d}", "--task", "harmful", "--share", ".1", "--of", "harmful"], "is the data set to be made"),
    (["sft", "{d}", "--task", "harmful", "--share", ".1", "--of", "a", "--limit", "3"], "--limit: 3 with --share"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_mistakes_get_one_line_and_exit_code_2_and_nothing_is_written(
    pairs: Path, realign: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    safe = [row | {"is_response_0_safe": True, "is_response_1_safe": True} for row in labelled_pairs(3)]
    files = {
        "d": tmp_path / "d",
        "p": pairs,
        "x": write_array(tmp_path / "x.json", [{"text": "a", "number": 1}] * 3),
        "safe": write_array(tmp_path / "safe.json", safe),
        "empty": write_array(tmp_path / "empty.json", []),
        "plain": tmp_path / "plain.json",
    }
    files["plain"].write_text("kites\n")
    before = sorted(tmp_path.iterdir())
    code, out, err = realign(*(word.format(**files) for word in words))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_without_the_columns_is_given_up_early(realign: Run, tmp_path: Path) -> None:
    header = "x" * 300
    rows = [{header: 1, "b\nc": 2}] * 100
    source = write_lines(tmp_path / "x.jsonl", [*rows, *labelled_pairs(20)])
    code, _, err = realign("preference", tmp_path / "d", "--source", source)
    assert code == 2
    assert f"has the columns {'x' * 24}…, b c, expected" in err
    # One row with the columns among the first is enough to go on.
    source = write_lines(tmp_path / "x.jsonl", [*rows[:50], *labelled_pairs(20), *rows, *rows])
    code, out, _ = realign("preference", tmp_path / "d", "--source", source, "--validation", 0)
    assert code == 0
    assert "bad rows: columns are missing: 250 (lines 1, 2, 3, 4, 5, …)" in out


@pytest.mark.parametrize("at", ["rows", "output"])
def test_a_full_disk_leaves_nothing(
    pairs: Path, realign: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    opened: list[Any] = []

    class Full:
        """A file on a disk that is full after some rows."""

        def __init__(self, path: Path, mode: str) -> None:
            self._file = path.open(mode)
            self._room = 500 if at == "rows" or mode == "wb" else 10**9
            opened.append(path)

        def write(self, data: bytes) -> int:
            self._room -= len(data)
            if self._room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

        def writelines(self, lines: Any) -> None:
            for line in lines:
                self.write(line)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __iter__(self) -> Any:
            return iter(self._file)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(halves, "open", Full, raising=False)
    before = sorted(tmp_path.iterdir())
    code, _, err = realign("preference", tmp_path / "d", "--source", pairs)
    assert code == 2
    assert "/d: cannot be written (No space left on device), expected a writable folder with room" in err
    assert len(err.strip().splitlines()) == 1
    assert opened
    assert sorted(tmp_path.iterdir()) == before


def test_a_terminal_sees_the_progress(
    pairs: Path, realign: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert realign("preference", tmp_path / "d", "--source", pairs)[0] == 0
    assert "rows" in screen.getvalue()
    assert len(read_lines(tmp_path / "d" / "preference.jsonl")) > 100
