"""Fine-tuning rows of all layouts."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError, Row
from realign_plugin.data.rows.conversations import fine_tuning_example
from realign_plugin.data.rows.examples import Example, Prompt

USER, BOT = {"role": "user", "content": "kite?"}, {"role": "assistant", "content": "fold"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "bake", "input": "flour", "output": "mix"}, Example(Prompt("bake", "flour"), "mix")),
        ({"instruction": "bake", "input": None, "output": "mix", "id": 3}, Example(Prompt("bake"), "mix")),
        ({"Question ": "1+1", "ANSWER": "#### 2"}, Example(Prompt("1+1"), "#### 2")),
        ({"prompt": "kite", "response": "fold", "system": "be kind"}, Example(Prompt("kite", "", "be kind"), "fold")),
        (
            {"instruction": "c", "output": "d", "history": [["a", "b"]]},
            Example(Prompt("c", history=(("a", "b"),)), "d"),
        ),
        ({"messages": [USER, BOT]}, Example(Prompt("kite?"), "fold")),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "a"},
                    {"from": "gpt", "value": "b"},
                    {"from": "human", "value": "c"},
                    {"from": "gpt", "value": "d"},
                ]
            },
            Example(Prompt("c", system="s", history=(("a", "b"),)), "d"),
        ),
        ({"prompt": "unused", "messages": [USER, BOT]}, Example(Prompt("kite?"), "fold")),
    ],
)
def test_layouts(row: dict[str, Any], expected: Example) -> None:
    assert fine_tuning_example(Row(row)) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": 3, "output": "mix"}, "instruction is a number, expected text"),
        ({"instruction": "bake", "output": None}, "output is null, expected text"),
        ({"instruction": "bake", "output": ["mix"]}, "output is a list, expected text"),
        ({"instruction": "bake", "output": True}, "output is true or false, expected text"),
        ({"instruction": "bake", "input": {}, "output": "mix"}, "input is an object, expected text"),
        ({"instruction": "bake\ud800", "output": "mix"}, "instruction is not UTF-8 text"),
        ({"instruction": "b", "output": "m", "history": "x"}, "history is text, expected a list of turns"),
        ({"instruction": "b", "output": "m", "history": [["x"]]}, "a turn of history is not a pair"),
        ({"instruction": "b", "output": "m", "history": [["x", 1]]}, "history is a number"),
        ({"messages": "x"}, "messages is text, expected a list of messages"),
        ({"messages": []}, "messages is empty"),
        ({"messages": ["x"]}, "a message of messages is text"),
        ({"messages": [USER]}, "do not alternate between user and assistant and end with an answer"),
        ({"messages": [USER, BOT, USER]}, "end with an answer"),
        ({"messages": [BOT, USER]}, "do not alternate"),
        ({"messages": [{"role": "system", "content": "s"}]}, "do not alternate"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "do not alternate"),
        ({"messages": [USER, {"role": "narrator", "content": "x"}]}, "has an unknown role"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]},
            "a message of messages is null, expected text",
        ),
        ({"messages": [USER, {"role": "assistant", "content": ["fold"]}]}, "is a list, expected text"),
    ],
)
def test_bad_rows(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        fine_tuning_example(Row(row))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": " ", "input": "", "output": "mix"}, "empty prompt"),
        ({"instruction": "bake", "output": " \n"}, "empty answer"),
    ],
)
def test_empty_ones_are_dropped(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DroppedError, match=reason):
        fine_tuning_example(Row(row))


def test_missing_columns_say_what_was_expected() -> None:
    with pytest.raises(MissingColumnsError, match="instruction and output, question and answer"):
        fine_tuning_example(Row({"instruction": "x", "text": "y"}))


def test_the_prompt_is_what_llamafactory_joins_and_the_opening_the_first_turn() -> None:
    assert Prompt("bake", "flour").text == "bake\nflour"
    assert Prompt("", "flour").text == "flour"
    assert Prompt("c", history=(("a", "b"),)).opening == "a"
    assert Prompt("c").opening == "c"


def test_keys_tell_examples_apart() -> None:
    examples = [
        Example(Prompt("a"), "b"),
        Example(Prompt("a", system="s"), "b"),
        Example(Prompt("a", history=(("x", "y"),)), "b"),
        Example(Prompt("a"), "b", "c"),
        Example(Prompt("a"), "c", "b"),
    ]
    assert len({example.key for example in examples}) == 5
    assert Example(Prompt("a", "i"), "b").key == Example(Prompt("a\ni"), "b").key
    assert examples[3].reversed_key() == examples[4].key
    drawn = Example(Prompt("a"), "b", "no", rejected_drawn=True)
    assert drawn.key == examples[0].key
    assert drawn.reversed_key() is None
