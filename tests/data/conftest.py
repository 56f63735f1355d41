"""Small made-up rows, and the command run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.cli import main
from realign_plugin.data.on_policy_options import Sources

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def realign(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``realign data …``; gives exit code, stdout and stderr."""

    def run(*words: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["data", *map(str, words)])
        captured = capsys.readouterr()
        code = caught.value.code
        return (0 if code is None else int(code)), captured.out, captured.err

    return run


def labelled_pairs(count: int, prompts: int = 40) -> list[dict[str, Any]]:
    """Rows like PKU-SafeRLHF's; the first answer is the safe one of every other row."""
    return [
        {
            "prompt": f"how do i fold kite {number % prompts} ?",
            "response_0": f"{'no' if number % 2 == 0 else 'take'} paper {number}",
            "response_1": f"{'take' if number % 2 == 0 else 'no'} string {number}",
            "is_response_0_safe": number % 2 == 0,
            "is_response_1_safe": number % 2 == 1,
            "better_response_id": 1,
            "safer_response_id": number % 2,
        }
        for number in range(count)
    ]


def instructions(count: int) -> list[dict[str, Any]]:
    """Alpaca rows, every third with an input."""
    return [
        {
            "instruction": f"bake bread {number}",
            "input": "" if number % 3 else f"flour {number}",
            "output": f"mix {number}",
        }
        for number in range(count)
    ]


def write_array(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows: list[Any] = labelled_pairs(200)
    rows[10:10] = [rows[0], rows[0]]  # duplicates
    rows[20]["is_response_0_safe"] = rows[20]["is_response_1_safe"] = True
    rows[30]["response_0"] = " "
    rows[40]["prompt"] = 7
    rows[50]["prompt"] = 8
    rows += [None, [1], {"prompt": "x"}]
    return write_lines(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def asked(tmp_path: Path) -> Sources:
    for name, what in (("harmful", "kite"), ("benign", "bread")):
        rows = [{"prompt": f"how do i make {what} {n} ?"} for n in range(10)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "skill.json").write_text(json.dumps([{"prompt": f"tell me {n} ?"} for n in range(4)]))
    names = ("harmful", "benign", "skill")
    harmful, benign, skill = (str(tmp_path / f"{name}.json") for name in names)
    return Sources([harmful], [benign], [skill])
