"""The verdict cache: private, whole after a crash, without pickles."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.judging.cache import VerdictCache, key_of


def test_texts_come_back(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    long = "ab\u00e9\n" * 50_000
    cache.put("k", "[[harmful]]")
    cache.put("long", long)
    cache.close()
    again = VerdictCache(tmp_path)
    assert (again.get("k"), again.get("long"), again.get("none")) == ("[[harmful]]", long, None)
    assert (tmp_path / "verdicts").stat().st_mode & 0o077 == 0


def test_keys_hold_everything_the_answer_depends_on() -> None:
    base = {
        "model": "m",
        "server": "s",
        "mode": "harmful",
        "version": "harmful-1",
        "parameters": {"seed": 0},
        "text": "t",
    }
    keys = {key_of(**base)} | {key_of(**(base | {name: "other"})) for name in base}
    assert len(keys) == 7
    assert key_of(**base) == key_of(**dict(reversed(base.items())))


def earlier(folder: Path, entries: dict[str, str]) -> Path:
    """A cache as earlier versions wrote it by way of diskcache: compressed JSON, the long ones in files."""
    (folder / "verdicts").mkdir(parents=True)
    file = folder / "verdicts" / "cache.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE Cache (key BLOB, raw INTEGER, mode INTEGER, filename TEXT, value BLOB)")
        for number, (key, text) in enumerate(entries.items()):
            packed_key, packed = (zlib.compress(json.dumps(part).encode(), 1) for part in (key, text))
            row: tuple[int, str | None, bytes | None] = (1, None, packed)
            if len(text) > 100:
                (folder / "verdicts" / f"{number}.val").write_bytes(packed)
                row = (2, f"{number}.val", None)
            database.execute("INSERT INTO Cache VALUES (?, 1, ?, ?, ?)", (packed_key, *row))
    return file


def test_the_cache_of_an_earlier_version_is_read_and_no_pickle_in_it(tmp_path: Path) -> None:
    file = earlier(tmp_path, {"k": "[[harmful]]", "long": "ab" * 100, "pickle": "x"})
    with sqlite3.connect(file) as database:
        key = zlib.compress(json.dumps("pickle").encode(), 1)
        database.execute("UPDATE Cache SET mode = 4, value = ? WHERE key = ?", (pickle.dumps(Boom()), key))
    for _ in range(2):
        cache = VerdictCache(tmp_path)
        assert [cache.get(name) for name in ("k", "long", "pickle")] == ["[[harmful]]", "ab" * 100, None]
        cache.close()


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize("damage", ["header", "middle", "earlier"])
def test_a_corrupt_cache_is_moved_aside_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    cache = VerdictCache(tmp_path)
    for number in range(200):
        cache.put(f"k{number}", "[[harmful]]" * 50)
    cache.close()
    file = tmp_path / "verdicts" / "cache.db"
    if damage == "earlier":
        shutil.rmtree(tmp_path / "verdicts")
        with sqlite3.connect(earlier(tmp_path, {"k": "text"})) as database:
            database.execute("UPDATE Cache SET value = x'0102'")
    else:
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(file.read_bytes())
        start = 0 if damage == "header" else 4096
        data[start : start + 3000] = b"\x07" * 3000
        file.write_bytes(data)
    again = VerdictCache(tmp_path)
    assert again.get("k1") is None
    again.put("k1", "new")
    assert again.get("k1") == "new"
    assert capsys.readouterr().err.count("was corrupt") == 1
    assert len(list(tmp_path.glob("verdicts.corrupt-*"))) == 1


def test_a_locked_cache_is_not_a_corrupt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("realign_plugin.evaluation.judging.cache.TIMEOUT", 0.2)
    cache = VerdictCache(tmp_path)
    cache.put("k", "text")
    with sqlite3.connect(tmp_path / "verdicts" / "cache.db") as other:
        other.execute("BEGIN IMMEDIATE")
        for name in ("a", "b"):
            cache.put(name, "text")
        other.rollback()
    assert cache.get("k") == "text"
    assert capsys.readouterr().err.count("cannot be used (database is locked); further verdicts are not kept") == 1
    assert VerdictCache(tmp_path).get("k") == "text"
    assert not list(tmp_path.glob("*corrupt*"))


def test_several_processes_find_a_corrupt_cache_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from realign_plugin.evaluation.judging.cache import VerdictCache\n"
        "cache = VerdictCache(Path(sys.argv[1]))\n"
        "for number in range(50):\n"
        "    cache.put(f'{sys.argv[2]}-{number}', 'text')\n"
    )
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "cache.db").write_bytes(b"no database " * 500)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stderr=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    said = "".join(process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert said.count("was corrupt") == 1
    cache = VerdictCache(tmp_path)
    assert all(cache.get(f"{name}-{number}") == "text" for name in "abc" for number in range(50))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"judge_cache: .*file cannot be written"):
        VerdictCache(tmp_path / "file")


def test_a_question_is_one_process_at_a_time(tmp_path: Path) -> None:
    one, other = VerdictCache(tmp_path), VerdictCache(tmp_path)
    with one.claim("k") as ours, other.claim("k") as theirs, other.claim("another") as free:
        assert (ours, theirs, free) == (True, False, True)
    with other.claim("k") as free:
        assert free
    assert not list((tmp_path / "asking").iterdir())


def test_the_question_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from realign_plugin.evaluation.judging.cache import VerdictCache\n"
        "with VerdictCache(Path(sys.argv[1])).claim('k') as ours:\n"
        "    print(ours, flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    cache = VerdictCache(tmp_path)
    with cache.claim("k") as ours:
        assert not ours
    holder.kill()
    holder.wait()
    with cache.claim("k") as ours:
        assert ours


def test_without_locks_every_question_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VerdictCache(tmp_path)
    (tmp_path / "asking").rmdir()
    (tmp_path / "asking").write_text("no folder")
    with cache.claim("k") as ours:
        assert ours
