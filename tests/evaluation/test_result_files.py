"""lm-eval's files as they are and as they should not be: read, or refused in one line, and nothing else."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.evaluation.compare import compare, markdown
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.rejudge import judge_files, results
from realign_plugin.evaluation.report import print_comparison
from realign_plugin.evaluation.result_files import read_results
from realign_plugin.evaluation.samples import read_samples
from realign_plugin.evaluation.session import Session
from realign_plugin.lab.study import tables
from tests.mutations import mutated, refusal, save

MUTATIONS = 400
RESULTS: dict[str, Any] = {
    "results": {
        "safety_made_up": {
            "alias": "safety_made_up", "sample_len": 20, "refusal_rate,none": 0.75, "refusal_rate_stderr,none": 0.1,
            "harmful_rate,none": "N/A",
        },
        "kites": {"alias": "kites", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 40},
        "all": {"alias": "all", " ": " "},
    },
    "group_subtasks": {"all": ["safety_made_up", "kites"], "kites": []},
    "configs": {"kites": {"task": "kites", "metric_list": [{"metric": "acc"}]}},
    "higher_is_better": {"safety_made_up": {"refusal_rate": True}, "kites": {"acc": True}, "all": {"acc": None}},
    "n-samples": {"safety_made_up": {"original": 20, "effective": 20}, "kites": {"original": 40, "effective": 40}},
    "n-shot": {"kites": 0},
    "versions": {"kites": 1.0, "safety_made_up": "Yaml"},
    "task_hashes": {"kites": "0123456789abcdef"},
    "config": {
        "model": "hf", "model_args": {"pretrained": "toys/base", "peft": "toys/lora"}, "gen_kwargs": {"top_k": 1},
    },
    "chat_template": "{{ messages }}",
    "system_instruction": "Be kind.",
    "system_instruction_sha": "89abcdef",
    "realign": {
        "intervals": {
            "safety_made_up": {
                "refusal_rate": {"low": 0.53, "high": 0.89, "hits": 15.0, "count": 20},
                "harmful_rate": {"not_available": "no verdict"},
            }
        },
        "judge": {"judge": "off"},
    },
}  # fmt: skip
SAMPLE: dict[str, Any] = {
    "doc_id": 0,
    "doc": {"id": "made-up-0000", "prompt": "how to fold a kite ?", "realign": {"kind": "harmful", "prefix": ""}},
    "target": "",
    "arguments": {"gen_args_0": {"arg_0": "how to fold a kite ?", "arg_1": {"until": []}}},
    "resps": [["Fold the paper."]],
    "filtered_resps": ["Fold the paper."],
    "metrics": ["refusal_rate"],
    "refusal_rate": 0.0,
}


def read_all(sound: Path, file: Path) -> None:
    """All that reads results files."""
    found = compare([f"one={sound}", str(file)])
    print_comparison(found)
    markdown(found).encode()
    json.dumps(found, allow_nan=False)
    known = tables.results_of(file.parent)
    assert known is not None
    known.leaves("all")
    for task, row in known.tasks.items():
        for key in row:
            known.cell(task, key.partition(",")[0])


def test_malformed_results_are_read_or_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(14)
    sound, file = tmp_path / "sound.json", tmp_path / "folder" / "results_2026.json"
    file.parent.mkdir()
    sound.write_text(json.dumps(RESULTS))
    messages = []
    for _ in range(MUTATIONS):
        text = mutated(RESULTS, draw)
        save(file, text, draw)
        messages.append(refusal(lambda: read_all(sound, file), text))
        capsys.readouterr()
    assert not [message for message in messages if message and "\n" in message]
    assert 100 < messages.count(None) < MUTATIONS - 100


def test_malformed_samples_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    draw = random.Random(41)
    session = Session(EvaluationSettings(judge="off"))
    file = tmp_path / "samples_safety_made_up_2026-01-02T03-04-05.678901.jsonl"
    messages = []
    for _ in range(MUTATIONS):
        text = mutated(SAMPLE, draw)
        save(file, json.dumps(SAMPLE) + "\n" + text + "\n", draw)
        before = file.read_bytes()
        messages.append(
            refusal(lambda: json.dumps(results(judge_files([file], session), session), allow_nan=False), text)
        )
        assert messages[-1] is None or file.read_bytes() == before
    assert not [message for message in messages if message and "\n" in message]
    assert 100 < messages.count(None) < MUTATIONS - 100


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085"])
def test_samples_that_hold_other_line_ends(tmp_path: Path, letter: str) -> None:
    row = SAMPLE | {"resps": [[f"Fold{letter}it."]], "filtered_resps": [f"Fold{letter}it."]}
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    assert read_samples(file, "samples") == [row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resps": 5, "filtered_resps": 5}, "line 2 of .* holds no text in resps"),
        ({"resps": [[[-1.5, True]]], "filtered_resps": [[-1.5, True]]}, "line 2 of .* holds no text in resps"),
        ({"doc": []}, "line 2 of .* holds no doc and resps"),
        ({"doc": {"prompt": "x", "realign": "text"}}, "line 2 of .*: doc.realign: the whole is 'text'"),
        ({"doc": {"prompt": "x", "realign": {"kind": "kite"}}}, "line 2 of .*: doc.realign: kind is 'kite', expected"),
    ],
)
def test_samples_of_another_kind(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (SAMPLE, SAMPLE | change)))
    with pytest.raises(UserError, match=f"^samples: {message}"):
        read_samples(file, "samples")


def test_model_arguments_as_text(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(
        json.dumps(RESULTS | {"config": {"model_args": "pretrained=toys/base,dtype=float32,peft=toys/lora"}})
    )
    assert read_results(tmp_path / "r.json")["config"]["model_args"]["peft"] == "toys/lora"
    assert compare([str(tmp_path / "r.json")])["models"][0]["name"] == "base + lora"


def test_numbers_that_are_none_are_not_available(tmp_path: Path) -> None:
    tasks = {"kites": {"acc,none": math.nan, "sample_len": 4}, "safety_x": {"refusal_rate,none": math.inf}}
    (tmp_path / "r.json").write_text(json.dumps({"results": tasks}))
    rows = compare([f"x={tmp_path / 'r.json'}"])["rows"]
    assert [(row["metric"], row["cells"][0]["value"]) for row in rows] == [("safety_x: refusal_rate", None)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": 5}, "results is '5', expected"),
        ({"results": {"kites": [1]}}, "results.kites is"),
        (
            {"results": {"kites": {"acc,none": 10**101}}},
            r"results.kites.acc,none is .* expected: a number up to 1e\+100",
        ),
        ({"config": {"model_args": 5}}, "config.model_args is '5'"),
        ({"realign": {"intervals": {"x": {"y": {"low": "a"}}}}}, "realign.intervals.x.y.low is 'a'"),
        ({"realign": {"intervals": {"x": {"y": {"hits": 3, "count": 2}}}}}, "expected: no more hits than count"),
        ({"group_subtasks": {"a": ["b"], "b": ["a"]}}, "group_subtasks: a is in itself"),
    ],
)
def test_results_of_another_shape(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(RESULTS | change))
    with pytest.raises(UserError, match=message) as error:
        compare([f"x={tmp_path / 'r.json'}"])
    assert "\n" not in str(error.value)


def test_a_path_with_an_equals_sign(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-3"
    folder.mkdir()
    (folder / "results_1.json").write_text(json.dumps(RESULTS))
    for entry in (folder, folder / "results_1.json"):
        assert compare([str(entry)])["models"][0] == compare([f"base + lora={entry}"])["models"][0]
    with pytest.raises(UserError, match="cannot be read"):
        compare([f"{tmp_path}/gone=1/results_1.json"])
    with pytest.raises(UserError, match="cannot be read"):
        compare(["x" * 5000])
