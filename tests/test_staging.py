"""Staging folders: whose they are, what cleans them up, and where nothing can be staged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_file, clean_up, try_folder, write_text
from realign_plugin.staging import COMMIT, LOCK, Stage
from tests.test_files import contents, write_model


def test_what_a_living_process_stages_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".realign-abcdefgh").mkdir()  # made, and never used
    (tmp_path / ".realign-notes").mkdir()  # somebody else's
    dead = tmp_path / ".realign-00000000"
    dead.mkdir()
    (dead / LOCK).touch()
    (dead / "out").mkdir()
    (dead / "out" / "weights").write_text("half")
    alive = Stage(tmp_path)
    write_model(tmp_path / "out", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".realign-notes", alive.folder.name, "out"])
    alive.close()


def test_a_folder_from_elsewhere_moves_nothing_out_of_itself(tmp_path: Path) -> None:
    target, secret = tmp_path / "download", tmp_path / "secret"
    stage = target / ".realign-abcdefgh"
    (stage / "work").mkdir(parents=True)
    (stage / LOCK).touch()
    (stage / "work" / "x").write_text("planted")
    secret.mkdir()
    (secret / "x").write_text("secret")
    for todo in (
        {"from": "work", "files": ["../x"]},
        {"from": "work", "files": [str(tmp_path / "x")]},
        {"from": "../../secret", "files": ["x"]},
        {"from": "work", "files": [7]},
        {"from": "work"},
    ):
        (stage / COMMIT).write_text(json.dumps({"kind": "folder", "replaces": [], "last": None} | todo))
        clean_up(target)
        assert contents(secret) == {"x": "secret"}
        assert not (tmp_path / "x").exists()
    (stage / "link").symlink_to(secret)
    (stage / COMMIT).write_text(json.dumps({"kind": "folder", "from": "link", "files": ["x"]}))
    clean_up(target)
    assert contents(secret) == {"x": "secret"}


def test_what_could_not_be_moved_in_is_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, replace = tmp_path / "out", os.replace
    write_model(target, "old")
    (target / "inner").mkdir()

    def broken(source: Any, goal: Any) -> None:
        if Path(goal).name == "config":
            raise OSError(5, "Input/output error")
        replace(source, goal)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match=r"out: cannot be written \(Input/output error\)"):
        write_model(target, "new")
    assert not (target / "config").exists()
    monkeypatch.undo()
    clean_up(target)
    assert contents(target) == {"config": "new", "weights": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def name_too_long(root: Path) -> Path:
    return root / ("x" * 256)


def dangling(root: Path) -> Path:
    (root / "link").symlink_to(root / "nowhere")
    return root / "link"


def below_a_file(root: Path) -> Path:
    (root / "file").write_text("x")
    return root / "file" / "deeper"


def a_folder(root: Path) -> Path:
    (root / "folder").mkdir()
    return root / "folder"


def a_pipe(root: Path) -> Path:
    os.mkfifo(root / "pipe")
    return root / "pipe"


def empty(_: Path) -> str:
    return ""


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (name_too_long, "cannot be written (File name too long)"),
        (dangling, "which does not exist, expected a file"),
        (below_a_file, "cannot be written (Not a directory), expected a writable folder"),
        (a_folder, "is a folder, expected a file to write"),
        (a_pipe, "is a device or a pipe, expected a file to write"),
        (empty, "is an empty path"),
    ],
)
def test_what_cannot_be_a_file_is_refused_in_one_line(tmp_path: Path, place: Any, message: str) -> None:
    target = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        write_text(target, "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (name_too_long, "cannot be written (File name too long)"),
        (dangling, "which does not exist, expected a folder"),
        (below_a_file, "cannot be written (Not a directory)"),
        (a_pipe, "is a file, expected a folder"),
        (empty, "is an empty path"),
    ],
)
def test_what_cannot_be_a_folder_is_refused_in_one_line(tmp_path: Path, place: Any, message: str) -> None:
    target = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for trial in (try_folder, lambda path: write_model(path, "x")):
        with pytest.raises(UserError) as caught:
            trial(target)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    try_folder(tmp_path / "a" / "b")
    with atomic_file(tmp_path / "c" / "d"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("old")
    with atomic_file(tmp_path / "file"):
        pass
    assert contents(tmp_path) == {"file": "old"}
