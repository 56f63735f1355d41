"""Models that can think are asked not to."""

from __future__ import annotations

from pathlib import Path

import pytest

from realign_plugin.chat_templates import can_think
from realign_plugin.data.answering.chats import chat_tokenizer, messages, rendered
from realign_plugin.data.rows.examples import Prompt

PROMPT = Prompt("how do i make a kite ?")


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_a_model_that_can_think_is_asked_not_to(lab: Path, name: str) -> None:
    tokenizer = chat_tokenizer(str(lab / "base"))
    plain = rendered(tokenizer, PROMPT, "base")
    assert not can_think(tokenizer)
    usual = tokenizer.chat_template
    tokenizer.chat_template = f"{usual}{{% if {name} is not defined or {name} %}}<think>{{% endif %}}"
    assert can_think(tokenizer)
    assert tokenizer.apply_chat_template(messages(PROMPT), tokenize=False) == f"{plain}<think>"
    assert rendered(tokenizer, PROMPT, "base") == plain
