"""How the page is written: broken files, mistakes, missing libraries, a full disk; the command ``realign report``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.cli import main
from realign_plugin.errors import UserError
from realign_plugin.lab.report.page import write_report


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.json", "{", "study.json is not JSON"),
        ("study.json", "[]", "study.json holds a list, expected a JSON object"),
        ("study.json", "{}", "study.json: title, expected: field required"),
        ("tables/main.json", '{"name": "main", "columns": [{"key": "a", "label": "a", "axis": "taste"}]}',
         "main.json: columns.0.axis is 'taste', expected"),
        ("tables/main.json", b"{\x80", "main.json is not UTF-8 text"),
        ("data/preference.card.json", '{"name": 1', "preference.card.json is not JSON"),
        ("commands.jsonl", '{"step": 1\n{}\n', "commands.jsonl: line 1 is not JSON"),
        ("commands.jsonl", "[]\n", "commands.jsonl: line 1 is a list, expected an object"),
        ("results/base/made-up__model/results_2026-11-24T09-00-00.json", "", "00.json is not JSON"),
        ("models/gsm8k-paper-0/trainer_log.jsonl", "loss\n{}\n", "trainer_log.jsonl: line 1 is not JSON"),
        ("models/gsm8k-paper-0/trainer_state.json", "[1]", "trainer_state.json holds a list, expected a JSON object"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_in_one_line_and_the_old_page_stays(
    run_folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | bytes, message: str
) -> None:
    (run_folder / "report.html").write_text("old")
    (run_folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, error = realign(capsys, "report", run_folder)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (run_folder / "report.html").read_text() == "old"
    assert not list(run_folder.glob(".report.html*"))


def realign(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    code = caught.value.code
    return (0 if code is None else int(code)), capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}/nowhere"], "nowhere does not exist, expected the folder that `realign study` wrote"),
        (["{run}/study.json"], "study.json is a file, expected the folder"),
        (["{run}/data"], "data holds no study.json, expected the folder of a study; `realign study` writes it"),
        (["{run}", "--out", "{run}"], "is a folder, expected a file to write; give"),
        (["{run}", "--out", "{run}/study.json/x.html"], "x.html: cannot be written ("),
    ],
)
def test_mistakes_get_one_line(
    small_run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, error = realign(capsys, "report", *(word.replace("{run}", str(small_run)) for word in words))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("library", ["jinja2", "pydantic", "matplotlib"])
def test_a_missing_library_is_named_with_what_installs_it(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{library} is not installed.*pip install 'realign-plugin\[study\]'"):
        write_report(small_run, tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_page(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (run_folder / "report.html").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"report\.html: cannot be written \(No space left on device\)"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_text() == "old"
    assert not list(run_folder.glob(".report.html*"))


def test_the_command_says_where_the_page_is(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    with pytest.raises(SystemExit) as caught:
        main(["report", str(small_run), "--out", str(out)])
    assert not caught.value.code
    assert f"Saved as {out}." in capsys.readouterr().out.replace("\n", "")
    assert out.stat().st_mode & 0o777 == 0o644


def test_the_command_line_stays_light() -> None:
    code = (
        "import sys; import realign_plugin.cli, realign_plugin.lab.report; "
        "print({'jinja2', 'matplotlib', 'pydantic', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_what_best_means_depends_on_the_aligned_row(run_folder: Path) -> None:
    def said() -> str:
        return " ".join(write_report(run_folder).read_text().split())

    best = "Best is the row with the smallest sum of harm, over-refusal"
    assert f"{best} beyond the aligned model's and missing skill." in said()
    file = run_folder / "tables" / "main.json"
    table = json.loads(file.read_text())
    table["rows"] = [row for row in table["rows"] if row["role"] != "aligned"]
    file.write_text(json.dumps(table))
    assert f"{best} and missing skill." in said()
