"""Entries of ``dataset_info.json`` from several processes, and what is never replaced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data import dataset_info
from realign_plugin.data.dataset_info import check_name, entry, publish
from realign_plugin.errors import UserError
from tests.data.conftest import read_json
from tests.kills import RENAMES, kill_at_each_change

STOCK = {"z_stock": {"hf_hub_url": "a/b", "note": "纸"}, "a_stock": {"file_name": "x.json"}}


def staged(folder: Path, name: str, text: str = "{}\n") -> tuple[list[Path], Path]:
    folder.mkdir(exist_ok=True)
    data, card = folder / f"{name}.jsonl", folder / f"{name}.card.json"
    data.write_text(text)
    card.write_text("{}")
    return [data], card


def add(folder: Path, name: str, text: str = "{}\n", **options: Any) -> None:
    files, card = staged(folder.parent / "staging", name, text)
    publish(folder, files, card, {name: entry(f"{name}.jsonl", ranking=False, extras=set())}, **options)


def test_other_entries_stay_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps(STOCK, ensure_ascii=False), encoding="utf-8")
    add(folder, "mine")
    assert list(read_json(folder / "dataset_info.json").items())[:2] == list(STOCK.items())
    assert list(read_json(folder / "dataset_info.json")) == ["z_stock", "a_stock", "mine"]
    assert (folder / "dataset_info.json").read_bytes().isascii()
    assert (folder / "mine.jsonl").read_text() == "{}\n"


def test_the_same_again_leaves_the_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    add(folder, "mine")
    before = (folder / "dataset_info.json").stat()
    add(folder, "mine")
    assert (folder / "dataset_info.json").stat().st_ino == before.st_ino


def test_what_differs_is_refused_unless_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    add(folder, "mine")
    with pytest.raises(UserError, match=r"mine.jsonl exists and differs .* give another --name, or --overwrite"):
        add(folder, "mine", "[]\n")
    assert (folder / "mine.jsonl").read_text() == "{}\n"
    info = read_json(folder / "dataset_info.json")
    info["mine"]["num_samples"] = 3
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="has another entry 'mine'"):
        add(folder, "mine")
    assert read_json(folder / "dataset_info.json") == info
    add(folder, "mine", "[]\n", overwrite=True)
    assert (folder / "mine.jsonl").read_text() == "[]\n"
    assert "num_samples" not in read_json(folder / "dataset_info.json")["mine"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "d", tmp_path / "real.json"
    folder.mkdir()
    elsewhere.write_text(json.dumps(STOCK))
    (folder / "dataset_info.json").symlink_to(elsewhere)
    add(folder, "mine")
    assert (folder / "dataset_info.json").is_symlink()
    assert list(read_json(elsewhere)) == ["z_stock", "a_stock", "mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"a": 1,\n}', "is not JSON \\(line (2 column 1|1 column 8)"), ("[]", "holds a list")],
)
def test_a_broken_file_is_refused_and_left(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(UserError, match=message):
        add(folder, "mine")
    assert (folder / "dataset_info.json").read_text() == text
    assert not (folder / "mine.jsonl").exists()


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.data.test_dataset_info import add\n"
        "mark, root = sys.argv[1], Path(sys.argv[2])\n"
        "(root / mark).mkdir()\n"
        "folder = root / mark / '..' / 'd'\n"
        "for number in range(60): add(folder, f'{mark}_{number}')\n"
    )
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code, mark, str(tmp_path)], cwd=root, stderr=subprocess.PIPE)
        for mark in ("one", "two")
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    info = read_json(tmp_path / "d" / "dataset_info.json")
    assert set(info) == {f"{mark}_{number}" for mark in ("one", "two") for number in range(60)}
    assert all((tmp_path / "d" / value["file_name"]).is_file() for value in info.values())


def test_a_lock_that_is_held_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    folder = tmp_path / "d"
    folder.mkdir()
    monkeypatch.setattr(dataset_info, "WAIT", 0.1)
    with FileLock(folder / dataset_info.LOCK), pytest.raises(UserError, match=r"is held by another process for 0.1 s"):
        add(folder, "mine")
    add(folder, "mine")


@pytest.mark.parametrize("name", ["a/b", "a,b", "", ".a", "a b", "../a", "a\n", "x" * 101, "dataset_info", "-a"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UserError, match=r"--name: .* cannot name a data set"):
        check_name("--name", name)


@pytest.mark.parametrize("name", ["preference", "alpaca-zh_1.0", "风筝"])
def test_names_that_can(name: str) -> None:
    check_name("--name", name)


def pair_of(folder: Path) -> list[str | None]:
    """The two halves as LLaMA-Factory finds them, by their entries."""
    info = read_json(folder / "dataset_info.json")
    return [
        (folder / info[name]["file_name"]).read_text() if name in info else None
        for name in ("x", "x_chosen", "x_validation")
    ]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("start", ["none", "old", "old without validation"])
def test_killed_anywhere_both_halves_are_old_or_both_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, links: bool
) -> None:
    root, folder, seen = tmp_path / "root", tmp_path / "root" / "d", set()

    def write(mark: str, *, validation: bool = True) -> None:
        names = ["x", "x_validation"] if validation else ["x"]
        staging = tmp_path / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name in names:
            (staging / f"{name}.jsonl").write_text(f"{mark} {name}")
        (staging / "x.card.json").write_text(mark)
        entries = {name: entry(f"{name}.jsonl", ranking=True, extras=set()) for name in names}
        entries["x_chosen"] = dataset_info.chosen_entry(entries["x"])
        files = [staging / f"{name}.jsonl" for name in names]
        retired = () if validation else ("x_validation",)
        publish(folder, files, staging / "x.card.json", entries, retired, overwrite=True)

    def before() -> None:
        shutil.rmtree(root, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps(STOCK))
        if start != "none":
            write("old", validation=start == "old")

    def halves(mark: str) -> list[list[str | None]]:
        whole: list[str | None] = [f"{mark} x", f"{mark} x", f"{mark} x_validation"]
        return [whole, [*whole[:2], None]]

    def after() -> None:
        found = pair_of(folder)
        seen.add((found[0] or "none").partition(" ")[0])
        assert found in [*halves("new")[:1], [None] * 3 if start == "none" else halves("old")[start != "old"]]
        there = [folder / f"{name}.jsonl" for name in ("x", "x_validation")]
        marks = {path.read_text().partition(" ")[0] for path in there if path.exists()}
        assert len(marks) < 2  # whoever looks at the files alone is not misled either
        if len(marks) == 1 and (folder / "x.card.json").exists():
            assert marks == {(folder / "x.card.json").read_text()} or pair_of(folder) == halves("new")[0]
        write("next", validation=False)
        assert pair_of(folder) == halves("next")[1]
        assert list(read_json(folder / "dataset_info.json"))[:2] == list(STOCK)
        names = ["dataset_info.json", "x.card.json", "x.jsonl"]
        assert sorted(p.name for p in folder.iterdir() if p.name != dataset_info.LOCK) == names

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    assert kill_at_each_change(root, before, lambda: write("new"), after, RENAMES) > 10
    assert seen == {"none" if start == "none" else "old", "new"}


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(1, "Operation not permitted")
