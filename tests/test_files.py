"""Files and folders are whole or absent, wherever they are and whatever interrupts their writing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import files
from realign_plugin.errors import UserError
from realign_plugin.files import atomic_folder, clean_up, sha256, write_json, write_text
from tests.kills import kill_at_each_change

REPLACES = ("config", "weights*")


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_model(target: Path, mark: str, *, config: str | None = None, shared: bool = False) -> None:
    with atomic_folder(target, replaces=REPLACES, last="config", shared=shared) as work:
        (work / "weights").write_text(mark)
        (work / "config").write_text(config or mark)


def is_model(target: Path, mark: str, *, config: str | None = None) -> bool:
    found = contents(target) if target.is_dir() else {}
    return found.get("weights") == mark and found.get("config") == (config or mark)


def test_files_appear_together_and_others_stay(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    with atomic_folder(target) as work:
        (work / "a.txt").write_text("a")
        (work / "deep").mkdir()
        (work / "deep" / "b.txt").write_text("b")
        assert not (target / "a.txt").exists()
    assert contents(target) == {"a.txt": "a", "deep/b.txt": "b", "mine.txt": "kept"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("inner", [False, True])
def test_what_belongs_to_the_old_content_goes_with_it(tmp_path: Path, inner: bool) -> None:
    target = tmp_path / "out"
    write_model(target, "old")
    (target / "weights-2").write_text("shard")
    (target / "notes").write_text("mine")
    if inner:
        (target / "checkpoint").mkdir()
        (target / "checkpoint" / "weights").write_text("kept")
    target.chmod(0o750)
    write_model(target, "new")
    kept = {"checkpoint/weights": "kept"} if inner else {}
    assert contents(target) == {"config": "new", "notes": "mine", "weights": "new"} | kept
    assert target.stat().st_mode & 0o777 == 0o750


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "a" / "b" / "out") as work:
            (work / "a.txt").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


Setting = Callable[[Path], Path]


def fresh(root: Path) -> Path:
    return root / "out"


def only_files(root: Path) -> Path:
    write_model(root / "out", "old")
    (root / "out" / "notes").write_text("mine")
    return root / "out"


def with_folders(root: Path) -> Path:
    target = only_files(root)
    (target / "checkpoint-1").mkdir()
    (target / "checkpoint-1" / "weights").write_text("kept")
    return target


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
@pytest.mark.parametrize("setting", [fresh, only_files, with_folders])
def test_killed_anywhere_a_folder_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Setting, exchange: bool
) -> None:
    root = tmp_path / "root"
    if not exchange:
        monkeypatch.setattr(files, "exchange", refused)
    seen = set()

    def before() -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        setting(root)

    def after() -> None:
        target = root / "out"
        raw = "old" if is_model(target, "old") else "new" if is_model(target, "new") else "none"
        if raw == "none" and setting is not fresh:
            assert not (target / "config").exists()  # nobody takes it for whole
        if target.is_dir():
            clean_up(target)  # as each reader does
        now = "old" if is_model(target, "old") else "new" if is_model(target, "new") else "none"
        seen.add((raw, now))
        assert now != "none" or (setting is fresh and not target.exists())
        if setting is not fresh:
            assert (target / "notes").read_text() == "mine"
        if setting is with_folders:
            assert (target / "checkpoint-1" / "weights").read_text() == "kept"
        write_model(target, "next")
        assert is_model(target, "next")
        assert [p.name for p in root.iterdir()] == ["out"]
        assert not list(target.glob(".*"))

    changes = kill_at_each_change(root, before, lambda: write_model(root / "out", "new"), after)
    assert changes > 8
    assert seen >= {("none", "none") if setting is fresh else ("old", "old"), ("new", "new")}
    if exchange and setting is only_files:
        assert ("none", "new") not in seen  # no reader ever misses it


def test_the_same_configuration_is_never_absent(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def before() -> None:
        shutil.rmtree(root, ignore_errors=True)
        write_model(root / "out", "old", config="same")
        (root / "out" / "checkpoint-1").mkdir()

    def after() -> None:
        assert is_model(root / "out", "old", config="same") or is_model(root / "out", "new", config="same")

    assert kill_at_each_change(root, before, lambda: write_model(root / "out", "new", config="same"), after) > 8


def refused(*_: Any, **__: Any) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize("reason", ["mount point", "read-only parent", "working folder", "no exchange", "no links"])
def test_a_folder_that_cannot_be_exchanged_is_written_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("kept")
    inode, rename = target.stat().st_ino, os.rename

    def across(source: Any, goal: Any) -> None:
        if Path(source).parent != Path(goal).parent and target in (Path(source).parent, Path(goal).parent):
            raise OSError(errno.EROFS if reason == "read-only parent" else errno.EXDEV, "no")
        rename(source, goal)

    if reason in ("mount point", "read-only parent"):
        monkeypatch.setattr(os, "rename", across)
    elif reason == "working folder":
        monkeypatch.chdir(target)
    else:
        monkeypatch.setattr(*((files, "exchange") if reason == "no exchange" else (os, "link")), refused)
    for mark in ("first", "second"):
        write_model(Path() if reason == "working folder" else target, mark)
        assert contents(target) == {"config": mark, "mine": "kept", "weights": mark}
        assert target.stat().st_ino == inode
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_others_write_to_keeps_their_files(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-1"
    for number in range(2):
        with atomic_folder(target, replaces=REPLACES, last="config", shared=True) as work:
            (work / "weights").write_text("w")
            (work / "config").write_text("c")
            target.mkdir(exist_ok=True)
            (target / f"rng_{number}").write_text("another rank's")
    assert sorted(contents(target)) == ["config", "rng_0", "rng_1", "weights"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("kind", ["safetensors", "torch", "text"])
def test_a_full_disk_is_one_line_and_leaves_the_old_content(tmp_path: Path, kind: str) -> None:
    import torch
    from safetensors import SafetensorError

    target = tmp_path / "out"
    write_model(target, "old")
    errors: dict[str, Exception] = {
        "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "torch": RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        "text": OSError(errno.ENOSPC, "No space left on device"),
    }

    def fill(error: Exception) -> None:
        with atomic_folder(target, replaces=REPLACES, last="config") as work:
            torch.save({}, work / "weights")
            raise error

    with pytest.raises(UserError, match=r"out: cannot be written \(.*expected a writable folder with room"):
        fill(errors[kind])
    assert is_model(target, "old")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [ConnectionError("no network"), FileNotFoundError(2, "gone", "/in/put"), KeyError(1)]
)
def test_what_has_nothing_to_do_with_the_output_stays_what_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), atomic_folder(tmp_path / "out"):
        raise error


def test_an_error_names_the_output_and_not_where_it_is_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        with atomic_folder(tmp_path / "out") as work:
            monkeypatch.setattr(os, "replace", full)
            write_json(work / "a.json", {})

    with pytest.raises(UserError, match=r"out/a\.json: cannot be written") as caught:
        fill()
    assert ".realign" not in str(caught.value)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.json"
    write_json(file, {"b": 1})
    write_json(file, {"b": 2})
    assert json.loads(file.read_text()) == {"b": 2}
    assert [p.name for p in file.parent.iterdir()] == ["x.json"]
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=r"^/proc/self/mem: cannot be read \(Input/output error\), expected"):
        sha256(Path("/proc/self/mem"))


def test_a_file_that_is_killed_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "x.json"

    def after() -> None:
        assert json.loads(file.read_text())["b"] in ("old", "new")
        write_json(file, {"b": "next"})
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]

    def before() -> None:
        write_json(file, {"b": "old"})

    assert kill_at_each_change(tmp_path, before, lambda: write_json(file, {"b": "new"}), after) > 4


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"b": 1})
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    assert json.loads(file.read_text()) == {"b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("old")
    (tmp_path / "x").symlink_to(tmp_path / "real" / "x")
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").is_symlink()
    assert contents(tmp_path) == {"real/x": "new", "x": "new"}


def test_a_file_that_is_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("old")
    inode = (tmp_path / "x").stat().st_ino
    monkeypatch.setattr(os, "replace", refused)
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "x").stat().st_ino == inode
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "y", "new")
