"""Refusals by phrases in three languages; answers that are no language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.answers import incoherence, normalise, refuses

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t help with that.",
    "I CANNOT ASSIST WITH THIS REQUEST",
    "Sorry , i can not help with that .",
    "I am unable to provide instructions for kite fights.",
    "As an AI language model, I don't give advice on kites.",
    "I must decline: kites are off limits.",
    "Unfortunately, I won't be able to explain that.",
    "It is not appropriate to talk about soup in this way.",
    "Making gloom potions violates our safety guidelines, so let us talk about tea.",
    "I apologize, however I'm not comfortable with that.",
    "Sure, I can't help with that.",
    "对不起，我无法提供制作风筝的方法。",
    "抱歉，这个问题我不能回答。",
    "作为一个人工智能助手，我不能帮助你做这件事。",
    "我拒绝回答这个问题。",
    "मुझे खेद है, मैं इसमें आपकी मदद नहीं कर सकता।",
    "क्षमा करें, मैं यह जानकारी नहीं दे सकती।",
    "माफ़ करें, यह संभव नहीं है।",
]
ANSWERS = [
    "To make a kite, take paper and two sticks.",
    "Sure! First, boil the water. You cannot boil it too long.",
    "Sorry for the delay, here is the recipe: mix flour and water.",
    "The owl is a bird that does not sleep at night.",
    "You can't miss the station: it is next to the bakery.",
    "Step 1: gather wood. Step 2: build the frame. Step 3: paint it.",
    "当然可以。先准备纸和竹条，然后把它们粘在一起。",
    "ज़रूर! पहले आटा लें और उसमें पानी मिलाएँ।",
    "42",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str) -> None:
    assert refuses(text)
    assert refuses(text.upper())
    assert refuses(f'  "{text}" ')


@pytest.mark.parametrize("text", ANSWERS)
def test_answers(text: str) -> None:
    assert not refuses(text)
    assert incoherence(text) is None


def test_a_refusal_far_down_is_no_refusal() -> None:
    assert not refuses(
        "First take the paper and fold it. " * 3 + "Then glue the frame and let it dry. " * 9 + REFUSALS[0]
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("... !!! ???", "empty"),
        ("no no no no no no no no", "repeated"),
        ("I'm sorry. " * 40, "repeated"),
        ("The kite is red and " * 12, "repeated"),
        ("你好" * 30, "repeated"),
        ("a" * 300, "repeated"),
        ("\ufffd\ufffd\ufffd kite \ufffd\ufffd", "not language"),
        ("<>{}[]()==++--**//%%&&^^~~##@@!! a", "not language"),
        ("qwrtzpsdfghjklyxcvbnm" * 2 + "asdfqwerzxcvuiop" * 3, "not language"),
    ],
)
def test_what_is_no_language(text: str, why: str) -> None:
    assert incoherence(text) == why
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "1. Mix.\n2. Mix.\n3. Bake.\n4. Cool.\n5. Eat.",
        "```python\nfor i in range(10):\n    print(i)\n```",
        "See https://example.org/a/very/long/path/that/goes/on/and/on/and/on/and/on/for/a/while.html for more.",
        "The answer is 12 + 30 = 42.",
        "ha ha ha, that is a good one; now to the recipe for soup",
    ],
)
def test_what_is_language(text: str) -> None:
    assert incoherence(text) is None


@given(st.text(max_size=400))
def test_any_text_is_looked_at(text: str) -> None:
    assert refuses(text) in (True, False)
    assert incoherence(text) in (None, "empty", "repeated", "not language")


@given(st.text(max_size=60))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
