"""Messages in all their forms: what is read, what is counted as bad, and what is left out because it is not text."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError, Row
from realign_plugin.data.rows.conversations import fine_tuning_example
from realign_plugin.data.rows.examples import Example, Prompt, as_conversation
from realign_plugin.data.rows.messages import text_row
from realign_plugin.data.rows.safety_pairs import less_safe_answer, preference_pair, safe_answer
from realign_plugin.text_files import NotJsonError, parse_json
from tests.data.conftest import Run, read_json, read_lines, write_lines
from tests.mutations import mutated


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def told(role: str, value: str) -> dict[str, str]:
    return {"from": role, "value": value}


USER, FOLD, BURN = said("user", "kite?"), said("assistant", "fold"), said("assistant", "burn")
CALL = {"id": "1", "type": "function", "function": {"name": "wind", "arguments": '{"at": "sea"}'}}
CALL_TEXT = '{"name": "wind", "arguments": {"at": "sea"}}'
TOOLS = [{"type": "function", "function": {"name": "wind", "parameters": {}}}]
TALK = [USER, said("assistant", None, tool_calls=[CALL]), said("tool", "calm", tool_call_id="1"), FOLD]
P = Prompt("kite?")
WITH_TOOL = Prompt("calm", history=(("kite?", CALL_TEXT),), roles=("human", "function_call", "observation"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [said("developer", "s"), USER, FOLD]}, Example(Prompt("kite?", system="s"), "fold")),
        (
            {"messages": [said("system", "s"), said("developer", "t"), USER, FOLD], "system": "unused"},
            Example(Prompt("kite?", system="s\nt"), "fold"),
        ),
        (
            {"messages": [said("user", [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]), FOLD]},
            Example(Prompt("a\nb"), "fold"),
        ),
        ({"prompt": [USER], "completion": [FOLD]}, Example(P, "fold")),
        ({"prompt": "kite?", "completion": [FOLD]}, Example(P, "fold")),
        ({"prompt": [said("system", "s"), USER], "response": "fold"}, Example(Prompt("kite?", system="s"), "fold")),
        ({"messages": TALK}, Example(WITH_TOOL, "fold")),
        ({"messages": TALK[:2]}, Example(P, CALL_TEXT, role="function_call")),
        (
            {
                "conversations": [
                    told("human", "kite?"), told("function_call", CALL_TEXT), told("observation", "calm"),
                    told("gpt", "fold"),
                ],
                "tools": json.dumps(TOOLS),
            },
            Example(replace(WITH_TOOL, tools=json.dumps(TOOLS)), "fold"),
        ),
        (
            {
                "messages": [
                    USER, said("assistant", "", tool_calls=[CALL, CALL]), said("tool", "a"), said("tool", "b"), FOLD,
                ]
            },
            Example(
                Prompt(
                    "a\n</tool_response>\n<tool_response>\nb",
                    history=(("kite?", f"[{CALL_TEXT}, {CALL_TEXT}]"),),
                    roles=WITH_TOOL.roles,
                ),
                "fold",
            ),
        ),
        ({"instruction": "kite?", "output": "fold", "tools": []}, Example(P, "fold")),
        (
            {"instruction": "kite?", "output": "fold", "tools": TOOLS},
            Example(Prompt("kite?", tools=json.dumps(TOOLS)), "fold"),
        ),
    ],
)  # fmt: skip
def test_what_is_read(row: dict[str, Any], expected: Example) -> None:
    assert fine_tuning_example(Row(row)) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [FOLD], "rejected": [BURN]},
        {"prompt": "kite?", "chosen": [FOLD], "rejected": [BURN]},
        {"prompt": "kite?", "chosen": FOLD, "rejected": BURN},
        {"prompt": "kite?", "chosen": [USER, FOLD], "rejected": [USER, BURN]},
        {"prompt": [USER], "chosen": [USER, FOLD], "rejected": [USER, BURN]},
        {"prompt": [USER], "chosen": "fold", "rejected": "burn"},
        {"chosen": [USER, FOLD], "rejected": [USER, BURN]},
        {"messages": [USER], "chosen": FOLD, "rejected": BURN},
        {
            "conversations": [told("human", "kite?")],
            "chosen": told("gpt", "fold"),
            "rejected": told("gpt", "burn"),
        },
    ],
)
def test_pairs_of_messages(row: dict[str, Any]) -> None:
    assert preference_pair(Row(row)) == Example(P, "fold", "burn")
    assert safe_answer(Row(row)) == Example(P, "fold")
    assert less_safe_answer(Row(row)) == Example(P, "burn")


def test_pairs_of_several_turns() -> None:
    before = [said("system", "s"), USER, FOLD, said("user", "and then?")]
    prompt = Prompt("and then?", system="s", history=(("kite?", "fold"),))
    for row in (
        {"prompt": before, "chosen": [FOLD], "rejected": [BURN]},
        {"chosen": [*before, FOLD], "rejected": [*before, BURN]},
        {"prompt": "kite?", "chosen": [*before, FOLD], "rejected": [*before, BURN]},
        {"prompt": before[:2], "chosen": [*before[2:], FOLD], "rejected": [*before[2:], BURN]},
    ):
        assert preference_pair(Row(row)) == Example(prompt, "fold", "burn")
    called = {"prompt": TALK[:3], "chosen": [FOLD], "rejected": [said("assistant", None, tool_calls=[CALL])]}
    pair = preference_pair(Row(called))
    assert pair == Example(WITH_TOOL, "fold", CALL_TEXT, rejected_role="function_call")
    assert less_safe_answer(Row(called)) == Example(WITH_TOOL, CALL_TEXT, role="function_call")


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"chosen": [USER, FOLD], "rejected": [said("user", "bread?"), BURN]}, BadRowError, "differ before their"),
        ({"prompt": "bread?", "chosen": [USER, FOLD], "rejected": [USER, BURN]}, BadRowError, "prompt is not what"),
        ({"chosen": [FOLD], "rejected": [BURN]}, BadRowError, "do not alternate"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [BURN]}, BadRowError, "does not end with an answer"),
        ({"prompt": [USER], "chosen": [], "rejected": [BURN]}, BadRowError, "chosen is empty, expected a list"),
        ({"prompt": [USER], "chosen": None, "rejected": [BURN]}, BadRowError, "chosen is null, expected a list"),
        ({"prompt": [USER], "chosen": FOLD, "rejected": FOLD}, DroppedError, "chosen equals rejected"),
        ({"prompt": [USER], "chosen": [FOLD]}, MissingColumnsError, r"chosen and rejected \(texts or messages\)"),
    ],
)  # fmt: skip
def test_pairs_that_are_none(row: dict[str, Any], kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        preference_pair(Row(row))


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        (said("user", [{"type": "image_url", "image_url": {"url": "x"}}]), DroppedError, "has images"),
        (said("user", [{"type": "input_audio"}]), DroppedError, "has audios"),
        (said("user", [{"type": "file"}]), BadRowError, "a part of a message of messages has an unknown type"),
        (said("user", [{"type": "text", "text": 3}]), BadRowError, "a message of messages is a number, expected text"),
        (said("user", [{"type": ["text"]}]), BadRowError, "has an unknown type"),
        (said("assistant", "hm", tool_calls=[CALL]), DroppedError, "words and a tool call in one message"),
        (said("assistant", None, tool_calls=["x"]), BadRowError, "calls a tool without name and arguments"),
        (said("assistant", None, tool_calls=[{"function": {"name": "f"}}]), BadRowError, "without name and arguments"),
        (
            said("assistant", None, function_call={"name": "f", "arguments": "{"}),
            BadRowError,
            "calls a tool with arguments that are not JSON",
        ),
        (told("function_call", "wind"), BadRowError, "a tool call of messages is not JSON"),
        (told("function_call", "[1]"), BadRowError, "calls a tool without name and arguments"),
        (said(["user"], "x"), BadRowError, "has an unknown role"),  # type: ignore[arg-type]
    ],
)
def test_messages_that_are_none(message: dict[str, Any], kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        fine_tuning_example(Row({"messages": [message, FOLD]}))


@pytest.mark.parametrize(
    ("tools", "reason"),
    [("wind", "tools is not JSON"), ({"a": 1}, "an object"), (["wind"], "tools is a list"), (3, "a number")],
)
def test_tools_that_are_none(tools: Any, reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        fine_tuning_example(Row({"instruction": "a", "output": "b", "tools": tools}))


def test_tools_and_roles_tell_examples_apart() -> None:
    plain, offered = Example(P, "fold"), Example(Prompt("kite?", tools="[{}]"), "fold")
    called = Example(P, "fold", role="function_call")
    assert len({plain.key, offered.key, called.key}) == 3
    pair = Example(P, "fold", "burn", rejected_role="function_call")
    assert pair.reversed_key() == Example(P, "burn", "fold", role="function_call").key


def test_rows_with_images_are_left_out_and_counted(realign: Run, tmp_path: Path) -> None:
    rows = [
        {"instruction": "a kite", "output": "fold", "images": []},
        {"instruction": "<image> what is it?", "output": "a kite", "images": ["kite.png"]},
        {"instruction": "and here?", "output": "bread", "Image": {"bytes": None, "path": "x.png"}},
        {"instruction": "none", "output": "bread", "image": {"bytes": None, "path": None}, "videos": None},
        {"messages": [said("user", [{"type": "image"}, {"type": "text", "text": "and this?"}]), FOLD]},
        {"instruction": "what is heard?", "output": "wind", "audios": ["wind.wav"]},
    ]
    source = write_lines(tmp_path / "x.jsonl", rows)
    code, out, err = realign("sft", tmp_path / "d", "--task", "alpaca_en", "--source", source)
    assert code == 0, err
    assert [row["instruction"] for row in read_lines(tmp_path / "d" / "alpaca_en.jsonl")] == ["a kite", "none"]
    counts = read_json(tmp_path / "d" / "alpaca_en.card.json")["counts"]
    assert counts["dropped"] == {"has audios, only text is supported": 1, "has images, only text is supported": 3}
    assert "dropped: has images, only text is supported" in " ".join(out.split())


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_other_encodings(realign: Run, tmp_path: Path, name: str, encoding: str) -> None:
    rows = [{"instruction": f"kite\u2028 {number}", "output": "纸"} for number in range(3)]
    text = {
        "x.json": json.dumps(rows, ensure_ascii=False),
        "x.jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "x.csv": "instruction,output\r\n" + "".join(f'"{row["instruction"]}",{row["output"]}\r\n' for row in rows),
    }[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    code, _, err = realign("sft", tmp_path / "d", "--task", "alpaca_en", "--source", tmp_path / name)
    assert code == 0, err
    assert [(r["instruction"], r["output"]) for r in read_lines(tmp_path / "d" / "alpaca_en.jsonl")] == [
        (row["instruction"], row["output"]) for row in rows
    ]


def test_malformed_rows_are_read_left_out_or_counted() -> None:
    draw, found = random.Random(3), Counter[str]()
    sound = [
        {"messages": TALK, "tools": TOOLS, "system": "s"},
        {"prompt": [USER], "chosen": [USER, FOLD], "rejected": [USER, BURN], "history": [["a", "b"]]},
        {"conversations": [told("human", "kite?")], "chosen": told("gpt", "fold"), "rejected": told("gpt", "burn")},
        {"instruction": "a", "input": "b", "output": "c", "history": [["a", "b"]], "images": []},
    ]
    for _ in range(1500):
        text = mutated(draw.choice(sound), draw)
        try:
            row = text_row(parse_json(text, surrogates=True))
        except (NotJsonError, BadRowError, DroppedError) as error:
            found[type(error).__name__] += 1
            continue
        for take in (fine_tuning_example, preference_pair):
            try:
                example = take(row)
                json.dumps(as_conversation(example.row()), ensure_ascii=False).encode()
                assert example.key
                found["read"] += 1
            except (BadRowError, DroppedError, MissingColumnsError) as error:
                found[type(error).__name__] += 1
    assert min(found[kind] for kind in ("read", "BadRowError", "MissingColumnsError")) > 100
