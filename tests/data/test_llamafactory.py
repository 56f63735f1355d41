"""The entries load in stock LLaMA-Factory, as pairs and as fine-tuning data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data.kinds import contrast, preference, sft
from realign_plugin.data.recipe import Request
from tests.conftest import make_tokenizer
from tests.data.conftest import instructions, labelled_pairs, read_lines, write_array, write_lines


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stock")
    make_tokenizer(root / "model")
    (root / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    folder = root / "data"
    pairs = write_array(root / "pairs.json", labelled_pairs(120))
    rows = write_array(root / "rows.json", instructions(12))
    preference(Request(folder, "preference", 0.1, limit=30), source=str(pairs))
    contrast(Request(folder, "benign"), source=str(rows))
    sft(Request(folder, "alpaca_en"), task="alpaca_en", source=str(rows))
    sft(Request(folder, "align", limit=9), task="align", source=str(pairs))
    # Ten megabytes without a turn come first: the block from which the types of the columns are inferred.
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    talk = [{"prompt": f"kite {n}", "response": "fold " * 2100} for n in range(1100)]
    talked = write_lines(root / "talk.jsonl", [*talk, {"messages": turns}])
    sft(Request(folder, "talk"), task="alpaca_en", source=str(talked))
    tool = [{"name": "wind", "description": "of a place", "parameters": {"type": "object", "properties": {}}}]
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "kite?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "wind", "arguments": "{}"}}]},
        {"role": "tool", "content": "calm"},
        {"role": "assistant", "content": "wait"},
    ]
    plain = [{"prompt": f"bread {n}?", "response": "bake"} for n in range(4)]
    called = write_lines(root / "called.jsonl", [*plain, {"messages": said, "tools": tool}, {"messages": said[:2]}])
    sft(Request(folder, "tools"), task="alpaca_en", source=str(called))
    two = [{"prompt": p, "chosen": [{"role": "assistant", "content": "wait"}], "rejected": r} for p, r in (
        ([{"role": "user", "content": "kite?"}], said[1:2]), (said[:3], [{"role": "assistant", "content": "fly"}]),
    )]  # fmt: skip
    preference(Request(folder, "tool_pairs"), source=str(write_lines(root / "two.jsonl", two)))
    return folder


def load(dataset_dir: Path, tmp_path: Path, stage: str, dataset: str, evaluation: str | None = None) -> Any:
    """What stock LLaMA-Factory trains on."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    options = {
        "model_name_or_path": str(dataset_dir.parent / "model"),
        "stage": stage,
        "finetuning_type": "lora",
        "do_train": True,
        "dataset": dataset,
        "eval_dataset": evaluation,
        "dataset_dir": str(dataset_dir),
        "template": "default",
        "cutoff_len": 64,
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "use_cpu": True,
        "overwrite_cache": True,
    }
    model, data, training, _, _ = get_train_args({key: value for key, value in options.items() if value is not None})
    tokenizer = load_tokenizer(model)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data)
    return get_dataset(template, model, data, training, stage={"dpo": "rm"}.get(stage, stage), tokenizer=tokenizer)


def test_pairs(dataset_dir: Path, tmp_path: Path) -> None:
    module = load(dataset_dir, tmp_path, "dpo", "preference,benign", "preference_validation")
    assert len(module["train_dataset"]) == 30 + 12
    assert len(module["eval_dataset"]) == len(read_lines(dataset_dir / "preference_validation.jsonl")) > 0
    assert {"chosen_input_ids", "rejected_input_ids"} <= set(module["train_dataset"].column_names)


def test_fine_tuning_data(dataset_dir: Path, tmp_path: Path) -> None:
    module = load(dataset_dir, tmp_path, "sft", "alpaca_en,align")
    assert len(module["train_dataset"]) == 12 + 9


def test_the_text_arrives_whole(dataset_dir: Path) -> None:
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list

    def converted(name: str) -> dict[str, Any]:
        (attributes,) = get_dataset_list([name], str(dataset_dir))
        row = read_lines(dataset_dir / f"{name}.jsonl")[0]
        return dict(get_dataset_converter("alpaca", attributes, None)(row))

    pair, row = converted("preference"), read_lines(dataset_dir / "preference.jsonl")[0]
    assert [part["content"] for part in pair["_prompt"]] == [row["prompt"]]
    assert [part["content"] for part in pair["_response"]] == [row["chosen"], row["rejected"]]
    plain = converted("alpaca_en")
    assert [part["content"] for part in plain["_prompt"]] == ["bake bread 0\nflour 0"]
    assert [part["content"] for part in plain["_response"]] == ["mix 0"]
    talk = converted("talk")
    assert [part["content"] for part in talk["_prompt"]] == ["a", "b", "c"]
    assert [part["content"] for part in talk["_response"]] == ["d"]


def test_tool_turns(dataset_dir: Path, tmp_path: Path) -> None:
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list

    def converted(name: str) -> list[dict[str, Any]]:
        (attributes,) = get_dataset_list([name], str(dataset_dir))
        rows = read_lines(dataset_dir / attributes.dataset_name)
        return [dict(get_dataset_converter(attributes.formatting, attributes, None)(row)) for row in rows]

    def roles(row: dict[str, Any], part: str) -> list[str]:
        return [message["role"] for message in row[part]]

    rows = converted("tools")
    # The first row with earlier turns goes first, as in every data set.
    assert [roles(row, "_prompt") for row in rows] == [["user", "function", "observation"], *[["user"]] * 5]
    assert [roles(row, "_response") for row in rows] == [["assistant"]] * 5 + [["function"]]
    assert [bool(row["_tools"]) for row in rows] == [True, *[False] * 5]
    pairs = converted("tool_pairs")
    assert sorted(roles(row, "_response") for row in pairs) == [["assistant", "assistant"], ["assistant", "function"]]
    assert sorted(len(row["_prompt"]) for row in pairs) == [1, 3]
    chosen = converted("tool_pairs_chosen")
    assert [row["_response"][0]["content"] for row in chosen] == ["wait", "wait"]
    for stage, name, count in (("sft", "tools", 6), ("dpo", "tool_pairs", 2), ("sft", "tool_pairs_chosen", 2)):
        assert len(load(dataset_dir, tmp_path, stage, name)["train_dataset"]) == count


def test_turns_after_ten_megabytes_load(dataset_dir: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    assert (dataset_dir / "talk.jsonl").stat().st_size > 10 << 20
    rows = load_dataset("json", data_files=str(dataset_dir / "talk.jsonl"), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 1101
    assert rows[0]["history"] == [["a", "b"]]
