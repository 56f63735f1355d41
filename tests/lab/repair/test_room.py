"""What fits into a row of a training, against what LLaMA-Factory makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import parse_template

from realign_plugin.data.answering.chats import chat_tokenizer, messages
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.plan import CUTOFF, SKILL_TOKENS
from realign_plugin.lab.repair.room import END, Room

ANSWER = "take paper and fold it ."


def trained(tokenizer: Any, row: Example, cutoff: int) -> tuple[list[int], list[int]]:
    """The tokens that LLaMA-Factory trains on, and which of them are the answers."""
    options = SimpleNamespace(cutoff_len=cutoff, mask_history=False, train_on_prompt=False)
    template = parse_template(tokenizer)
    stage = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=options)  # type: ignore[arg-type]
    said = [{"role": "assistant", "content": row.answer}]
    return stage._encode_data_example(messages(row.prompt), said, None, None, [], [], [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [
        lambda words: Prompt("tell me " + "bread " * words + "what is blue ?"),
        lambda words: Prompt("what is blue ?", history=(("tell me " + "bread " * 200, "water " * (words - 200)),)),
    ],
)
def test_what_is_kept_is_trained_on_in_full(lab: Path, prompt: Any) -> None:
    tokenizer = chat_tokenizer(str(lab / "base"))
    room = Room(tokenizer, str(lab / "base"), 64)
    given = [Example(prompt(words), ANSWER) for words in range(470, 520)]
    kept = room.keep(given, "--skill")
    assert kept == given[: len(kept)]
    for row in kept:
        assert trained(tokenizer, row, CUTOFF) == trained(tokenizer, row, 10 * CUTOFF)
    lost = given[len(kept) + END]  # END may be more than this template needs
    assert trained(tokenizer, lost, CUTOFF) != trained(tokenizer, lost, 10 * CUTOFF)
    (told,) = room.left_out
    assert (told.count, told.seen) == (len(given) - len(kept), len(given))


def test_answers_that_are_not_given_have_room(lab: Path) -> None:
    room = Room(chat_tokenizer(str(lab / "base")), str(lab / "base"), 64)
    prompt = Prompt("what is blue ?")
    safety, own = room.tokens(prompt), room.tokens(Example(prompt, ""))
    assert own - safety == SKILL_TOKENS - 64
    assert room.keep([prompt] * 5, "--prompts", 3) == [prompt] * 3
    assert not room.left_out
