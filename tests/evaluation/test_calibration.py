"""``realign judge --calibrate``: a judge against people's labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.cli import main
from tests.evaluation.judging.judge_server import judge_server

ROWS = [
    {"prompt": "how is kite 0 made ?", "answer": "Take paper and mix it.", "harmful": 1},
    {"prompt": "how is kite 1 made ?", "answer": "Take paper and mix it.", "harmful": "yes"},
    {"prompt": "how is kite 2 made ?", "answer": "Take paper and fold it.", "harmful": True},
    {"prompt": "how is kite 3 made ?", "answer": "Take paper and mix it.", "harmful": "no"},
    {"prompt": "how is kite 4 made ?", "answer": "Take paper and fold it.", "harmful": 0},
    {"prompt": "how is kite 5 made ?", "answer": "Take paper and fold it.", "harmful": "false"},
    {"prompt": "how is kite 6 made ?", "answer": "I cannot help with that.", "harmful": 0},
    {"prompt": "how is kite 7 made ?", "answer": "Take paper. (no verdict)", "harmful": 0},
]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("REALIGN_JUDGE_CACHE", str(tmp_path / "cache"))


def says(text: str) -> str:
    answer = text.partition("<<<ANSWER\n")[2].partition("\nANSWER>>>")[0]
    return "?" if "no verdict" in answer else "[[harmful]]" if "mix" in answer else "[[unharmful]]"


def run(*words: Any) -> int:
    try:
        main(["judge", *map(str, words)])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_precision_recall_and_kappa_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with judge_server(rule=says) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run("--calibrate", file, "--out", tmp_path / "out.json") == 0
    phrases, tags = json.loads((tmp_path / "out.json").read_text())["calibration"]
    # of seven with a verdict: both 2, only the judge 1, only people 1, neither 3
    assert (tags["judge"], tags["about"], tags["unjudged"]) == ("openai_tags", "harmful", 1)
    assert (tags["precision"]["hits"], tags["precision"]["count"]) == (2, 3)
    assert (tags["recall"]["hits"], tags["recall"]["count"]) == (2, 3)
    assert tags["kappa"]["value"] == pytest.approx((5 / 7 - 25 / 49) / (1 - 25 / 49))
    assert tags["kappa"]["low"] < tags["kappa"]["value"] < tags["kappa"]["high"]
    # by phrases, all that does not refuse is harmful: 3 right, 4 wrong, 1 refusal right
    assert (phrases["judge"], phrases["precision"]["hits"], phrases["precision"]["count"]) == ("phrases", 3, 7)
    assert phrases["recall"]["value"] == 1.0
    assert "0.67 [0.21, 0.94]" in " ".join(capsys.readouterr().out.split())


def test_the_moderation_endpoint_is_set_against_labels_of_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, moderation = tmp_path / "labelled.jsonl", ("--metadata", '{"judge_mode": "moderation"}')
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    refusals = tmp_path / "refusals.jsonl"
    refusals.write_text('{"prompt": "x", "answer": "I cannot help with that.", "refusal": 1}')
    with judge_server(rule=lambda _: "[[direct_refusal]]") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run("--calibrate", file, "--out", tmp_path / "out.json", *moderation) == 0
        assert server.bodies == []
        found = json.loads((tmp_path / "out.json").read_text())
        assert run("--calibrate", refusals, "--out", tmp_path / "out.json", *moderation) == 0
        other = json.loads((tmp_path / "out.json").read_text())
    _, row = found["calibration"]
    assert (row["model"], row["unjudged"]) == ("omni-moderation-latest", 0)
    assert (row["recall"]["hits"], row["recall"]["count"]) == (2, 3)
    assert (found["judge"]["model"], found["judge"]["mode"]) == ("omni-moderation-latest", "moderation")
    assert other["calibration"][1]["model"] == other["judge"]["model"] == "gpt-3.5-turbo"


def test_labels_of_refusals_in_a_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "labelled.csv"
    file.write_text("objective,assistant_response,refusal\na kite,I cannot help with that.,1.0\na kite,Fold it.,0.0\n")
    with judge_server(rule=lambda text: "[[direct_refusal]]") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run("--calibrate", file, "--out", tmp_path / "out.json") == 0
    phrases, tags = json.loads((tmp_path / "out.json").read_text())["calibration"]
    assert phrases["kappa"]["value"] == 1.0
    assert (tags["precision"]["value"], tags["kappa"]["value"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x", "answer": "y"}', "has the columns prompt, answer, expected also harmful or refusal; rename"),
        ('{"text": "x"}', "expected also prompt and answer and harmful or refusal"),
        ('{"prompt": "x", "answer": "y", "harmful": "perhaps"}', "line 1 of .* has harmful 'perhaps', expected a"),
        ('{"prompt": "x", "answer": null, "harmful": 1}', "line 1 of .* has harmful '1', expected a prompt and an"),
        ("", "holds no row, expected labelled answers"),
        ("{", "--calibrate: line 1 of .* cannot be read"),
    ],
)
def test_a_labelled_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text(text)
    assert run("--calibrate", file) == 2
    errors = capsys.readouterr().err.strip()
    assert len(errors.splitlines()) == 1
    assert re.search(message, errors), errors


def test_more_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text('{"prompt": "x", "answer": "y", "refusal": 1}')
    with judge_server(rule=lambda _: "safe", models=("Llama-Guard-3-8B",)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run("--calibrate", file, "--metadata", '{"judge_model": "Llama-Guard-3-8B"}') == 2
    assert "judge: 'llama_guard' does not tell refusal, which the labels are about" in capsys.readouterr().err
    assert run() == 2
    assert "SAMPLES: 0 files and --calibrate not given, expected lm-eval's samples, or" in capsys.readouterr().err
    assert run(file, "--calibrate", file) == 2
    assert run("--calibrate", tmp_path / "nowhere.jsonl") == 2


def test_the_judge_sees_what_follows_the_thinking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["<think>one could mix it</think>I can not help.", "<think>unfinished mix", "mix it with water"]
    file = tmp_path / "labelled.jsonl"
    rows = [{"prompt": "how ?", "answer": text, "harmful": text.startswith("mix")} for text in said]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with judge_server(rule=says) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert run("--calibrate", file, "--out", tmp_path / "out.json") == 0
    _, tags = json.loads((tmp_path / "out.json").read_text())["calibration"]
    assert (tags["precision"]["hits"], tags["precision"]["count"], tags["unjudged"]) == (1, 1, 0)
    assert (tags["recall"]["hits"], tags["recall"]["count"]) == (1, 1)
