"""The sets that papers report, from local files in the columns of their public cards."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from realign_plugin import UserError
from realign_plugin.evaluation.data import load_prompts
from realign_plugin.evaluation.sources import SOURCES
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import Evaluate, Parrot, judged


def asked(number: int) -> str:
    return f"how is kite {number} made ?"


SETS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "harmbench": (
        "harmbench_behaviors_text_all.csv",
        [
            {"Behavior": asked(1), "FunctionalCategory": "standard", "SemanticCategory": "paper", "BehaviorID": "a"},
            {"Behavior": asked(2), "FunctionalCategory": "contextual", "SemanticCategory": "paper", "BehaviorID": "b"},
            {"Behavior": asked(3), "FunctionalCategory": "standard", "SemanticCategory": "string", "BehaviorID": "c"},
        ],
    ),
    "advbench": ("harmful_behaviors.csv", [{"goal": asked(n), "target": "Sure, here is a kite"} for n in (1, 3)]),
    "jailbreakbench_harmful": (
        "harmful-behaviors.csv",
        [{"Index": n, "Goal": asked(n), "Target": "Sure", "Behavior": "Kites", "Category": "Toys"} for n in (1, 3)],
    ),
    "jailbreakbench_benign": (
        "benign-behaviors.csv",
        [{"Index": n, "Goal": asked(n), "Target": "Sure", "Behavior": "Kites", "Category": "Toys"} for n in (1, 3)],
    ),
    "strongreject": (
        "strongreject_dataset.csv",
        [{"category": "Toys", "source": "custom", "forbidden_prompt": asked(n)} for n in (1, 3)],
    ),
    "sorry_bench": (
        "sorry_bench.jsonl",
        [
            {"question_id": 1, "category": "1", "turns": [asked(1)], "prompt_style": "base"},
            {"question_id": 1, "category": "1", "turns": ["HOW IS KITE 1"], "prompt_style": "slang"},
            {"question_id": 2, "category": "2", "turns": [asked(3)], "prompt_style": "base"},
        ],
    ),
    "air_bench": (
        "air_bench.jsonl",
        [{"cate-idx": "1", "l2-name": "Toys", "l3-name": "Paper", "l4-name": "x", "prompt": asked(n)} for n in (1, 3)],
    ),
    "safety_attack_jbb": (
        "jbb_artifacts.json",
        [
            {
                "index": 0,
                "goal": asked(1),
                "category": "Toys",
                "prompt": "Once upon a time, kite 1",
                "jailbroken": True,
            },
            {"index": 1, "goal": asked(2), "category": "Toys", "prompt": None, "jailbroken": False},
            {"index": 2, "goal": asked(3), "category": "Toys", "prompt": "Long ago, kite 3", "jailbroken": True},
        ],
    ),
}
"""A file of each set, by its task: two of its rows are prompts of the set."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    for name, rows in SETS.values():
        with open(folder / name, "w", encoding="utf-8", newline="") as stream:
            if name.endswith(".csv"):
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            elif name.endswith(".jsonl"):
                stream.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                json.dump({"parameters": {"method": "PAIR", "model": "vicuna"}, "jailbreaks": rows}, stream)
    return folder


def test_stock_lm_eval_lists_them() -> None:
    manager = TaskManager()
    assert set(SETS) <= set(manager.all_subtasks)
    assert {"safety_standard", "jailbreakbench"} <= set(manager.all_groups)


def test_each_loads_from_a_local_file_and_is_measured(evaluate: Evaluate, files: Path) -> None:
    model = Parrot()
    found = evaluate(",".join(SETS), model=model, safety_data=str(files))
    for task in SETS:
        docs = [sample["doc"] for sample in found["samples"][task]]
        assert [doc["prompt"] for doc in docs] == [asked(1), asked(3)], task
        assert found["results"][task]["refusal_rate,none"] == 0
    assert found["higher_is_better"]["jailbreakbench_benign"]["refusal_rate"] is False
    assert found["higher_is_better"]["jailbreakbench_harmful"]["refusal_rate"] is True
    assert {"Once upon a time, kite 1", "Long ago, kite 3"} <= set(model.asked)
    categories = {row["category"] for row in load_prompts("harmbench", files)}
    assert categories == {"paper", "string"}


def test_the_judge_sees_the_goal_of_an_attack_and_hears_of_the_authors_judge(
    evaluate: Evaluate, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server() as server:
        judged(monkeypatch, server.url)
        evaluate("safety_attack_jbb,strongreject", safety_data=str(files))
        assert server.calls == 2  # both sets have the same two goals
        assert all("Once upon" not in text and "Long ago" not in text for text in server.prompts)
    told = capsys.readouterr().err
    assert told.count("strongreject: its authors judge with 'strongreject', this run with openai_tags") == 1


def test_the_group_is_pooled(evaluate: Evaluate, files: Path) -> None:
    found = evaluate("safety_standard", safety_data=str(files))
    assert found["realign"]["intervals"]["safety_standard"]["refusal_rate"]["count"] == 8


def test_a_gated_set_says_how_to_get_it() -> None:
    with pytest.raises(
        UserError, match=r"sorry_bench: .* it is gated: accept its terms on https://.*hf auth login"
    ) as e:
        load_prompts("sorry_bench")
    assert "\n" not in str(e.value)


def test_an_attack_set_needs_its_goals(tmp_path: Path) -> None:
    (tmp_path / "jbb_artifacts.json").write_text(json.dumps([{"prompt": "Once upon a time"}]))
    with pytest.raises(UserError, match="has the columns prompt, expected goal; rename"):
        load_prompts("jbb_artifacts", tmp_path)


def test_files_of_the_usual_form_are_read_too(tmp_path: Path) -> None:
    for name, source in SOURCES.items():
        if source.attack is None and not source.keep:
            (tmp_path / f"{source.files[0]}.json").write_text(json.dumps([{"prompt": asked(1)}]))
            assert load_prompts(name, tmp_path)[0]["prompt"] == asked(1)
