"""Prompts without their answers: the layouts they come in, which rows are left out, and where a bad one is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from realign_plugin import UserError
from realign_plugin.data.prompts import read_prompts, skill_prompts
from realign_plugin.data.rows.examples import Prompt
from tests.data.conftest import write_array, write_lines


def said(*texts: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant, in turn."""
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


WORD, SYSTEM = Prompt("make a kite ?"), {"role": "system", "content": "be brief"}
IMAGE = {"type": "image_url", "image_url": {"url": "a.png"}}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "make a kite ?"}, WORD),
        ({"messages": said("make a kite ?")}, WORD),
        ({"messages": said("make a kite ?", "fold paper")}, WORD),
        ({"conversations": [{"from": "human", "value": "make a kite ?"}]}, WORD),
        ({"prompt": said("make a kite ?")}, WORD),
        ({"prompt": said("make a kite ?"), "completion": said("x", "fold paper")[1:]}, WORD),
        ({"prompt": said("hi", "yes ?", "make a kite ?")}, Prompt("make a kite ?", history=(("hi", "yes ?"),))),
        ({"messages": [SYSTEM, *said("make a kite ?", "fold")]}, Prompt("make a kite ?", system="be brief")),
        ({"messages": said("make a kite ?"), "tools": []}, WORD),
    ],
)
def test_layouts(tmp_path: Path, row: dict[str, Any], prompt: Prompt) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [row])
    assert read_prompts([str(file)], "--prompts", None, 0).prompts == [prompt]


def test_other_rows_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"make kite {n} ?"} for n in range(9)]
    rows += [{"prompt": " "}, {"prompt": "make KITE 1 ?"}, {"prompt": "what is it ?", "images": ["a.png"]}]
    tools = [{"name": "scissors", "parameters": {}}]
    others = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it ?"}, IMAGE]}]},
        {"prompt": "cut it ?", "tools": tools},
        {"messages": [*said("cut it ?"), {"role": "function_call", "content": '{"name": "cut", "arguments": {}}'},
                      {"role": "tool", "content": "done"}]},
    ]  # fmt: skip
    file = write_lines(tmp_path / "rows.jsonl", [*rows, *others])
    found = read_prompts([str(file)], "--prompts", 7, 0)
    media, with_tools = "has images, only text is supported", "has tools, only text is supported"
    wanted = {"empty prompt": 1, "duplicate": 1, media: 2, with_tools: 2, "beyond the limit": 2}
    assert (len(found.prompts), found.left_out) == (7, Counter(wanted))
    file = write_lines(tmp_path / "none.jsonl", [{"prompt": ""}, *rows[-1:]])
    with pytest.raises(UserError, match=rf"none\.jsonl holds no prompt \(empty prompt 1; {media} 1\), expected"):
        read_prompts([str(file)], "--prompts", None, 0)


@pytest.mark.parametrize(("name", "place"), [("x.jsonl", "line 4"), ("x.json", "line 8"), ("x.parquet", "row 3")])
@pytest.mark.parametrize("bad", [{"prompt": None}, {"messages": None}, {"messages": said("a", "b", "c", "d")[1:]}])
def test_the_place_of_a_bad_row(tmp_path: Path, name: str, place: str, bad: dict[str, Any]) -> None:
    rows, file = [{"prompt": "make kite 1 ?"}, {"prompt": "make kite 2 ?"}, bad], tmp_path / name
    if name == "x.json":
        write_array(file, rows)
    elif name == "x.jsonl":
        file.write_text("\n".join(map(json.dumps, rows[:2])) + "\n\n" + json.dumps(bad))
    else:
        if "messages" in bad:
            rows = [{"messages": said("hi")}] * 2 + [bad]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    with pytest.raises(UserError, match=rf"--prompts: .*{name}, {place}: .*, expected a prompt \(instruction, "):
        read_prompts([str(file)], "--prompts", None, 0)


def test_a_skill_of_conversations_without_an_answer_is_to_be_answered(tmp_path: Path) -> None:
    rows = [{"messages": said(f"tell me {n} ?")} for n in range(3)]
    found = skill_prompts([str(write_lines(tmp_path / "asked.jsonl", rows))], None, 0)
    assert (len(found.prompts), found.answered) == (3, [])
    file = write_lines(tmp_path / "said.jsonl", [*rows, {"messages": said("tell me 9 ?", "nine")}])
    found = skill_prompts([str(file)], None, 0)
    assert ([prompt.text for prompt in found.prompts], found.answered) == (["tell me 9 ?"], [file])


def test_answers_that_cannot_be_read(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "odd.jsonl", [{"prompt": "tell me 1 ?", "answer": 3}])
    with pytest.raises(UserError, match=r"--skill: odd\.jsonl holds no prompt with an answer, expected at least one"):
        skill_prompts([str(file)], None, 0)
