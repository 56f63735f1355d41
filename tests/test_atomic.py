"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from realign_plugin.atomic import atomic_folder, sha256, write_json
from realign_plugin.errors import UserError


def test_files_appear_together_and_others_stay(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    with atomic_folder(target) as work:
        (work / "a.txt").write_text("a")
        (work / "deep").mkdir()
        (work / "deep" / "b.txt").write_text("b")
        assert not (target / "a.txt").exists()
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*.txt")) == ["a.txt", "deep/b.txt", "mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "out") as work:
            (work / "a.txt").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="is a file, expected a folder"), atomic_folder(tmp_path / "out"):
        pass
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "out" / "deeper"):
        pass


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.json"
    write_json(file, {"b": 1})
    write_json(file, {"b": 2})
    assert json.loads(file.read_text()) == {"b": 2}
    assert [p.name for p in file.parent.iterdir()] == ["x.json"]
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"b": 1})
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    assert json.loads(file.read_text()) == {"b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
