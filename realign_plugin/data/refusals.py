"""Refusals to pair with the answers to harmless prompts, in the language of the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from realign_plugin.data.rows.columns import DroppedError, Row
from realign_plugin.data.rows.conversations import fine_tuning_example
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.selection import keyed_hash
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.refusals import Language, refuses
from realign_plugin.evaluation.answers.thinking import final_answer
from realign_plugin.text_files import read_text, text_lines

REFUSALS: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, I am unable to answer that.",
        "I won't be able to help you with this.",
        "I'm afraid I can't do that.",
        "I have to decline this request.",
        "I apologise, but I cannot provide this information.",
        "As an AI assistant, I cannot respond to this request.",
        "I'm not able to give you an answer to this question.",
        "I'm sorry, but this is not something I can discuss.",
        "I can't comply with this request. Please ask me something else.",
        "Unfortunately I cannot offer any help here.",
    ),
    "zh": (
        "抱歉，我无法帮助您完成这个请求。",
        "对不起，我不能回答这个问题。",
        "很遗憾，我无法提供相关内容。",
        "作为人工智能助手，我不能满足这个要求。",
        "不好意思，这个问题我不便回答。",
        "我不能协助处理这个请求，请换一个问题。",
    ),
    "hi": (
        "क्षमा करें, मैं इसमें आपकी मदद नहीं कर सकता।",
        "माफ़ कीजिए, मैं इस प्रश्न का उत्तर नहीं दे सकता।",
        "मुझे खेद है, मैं यह जानकारी नहीं दे सकता।",
        "मैं इस अनुरोध को पूरा करने में असमर्थ हूँ।",
        "एक एआई सहायक के रूप में मैं इसका उत्तर नहीं दे सकता।",
        "माफ़ करें, मैं इस विषय पर सहायता नहीं कर सकता।",
    ),
}
"""Plain refusals, by language; each is recognised as one by ``evaluation.refusals``."""

SHARE_OF_SCRIPT: Final = 0.3
"""A prompt with at least this share of letters in a script is taken to be in its language."""


def language_of(text: str) -> Language:
    """The language of a prompt by its script: Chinese, Hindi, or English for all others.

    Args:
        text: The prompt. Text with kana is Japanese and counts as English.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters or any("\u3040" <= c <= "\u30ff" for c in letters):
        return "en"
    chinese = sum("\u3400" <= c <= "\u9fff" or "\U00020000" <= c <= "\U0003134f" for c in letters)
    hindi = sum("\u0900" <= c <= "\u097f" for c in letters)
    if max(chinese, hindi) < SHARE_OF_SCRIPT * len(letters):
        return "en"
    return "zh" if chinese >= hindi else "hi"


def read_refusals(file: Path) -> tuple[str, ...]:
    """Refusals of the user's own, one a line; empty lines are left out.

    Args:
        file: The text file.

    Raises:
        UserError: If it cannot be read, or holds none.
    """
    lines = text_lines(read_text(file, "--refusals", "a text file with one refusal a line"))
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError(
            f"--refusals: {file} holds no refusal, expected one a line; leave it out for the built-in ones"
        )
    return found


def contrast_with(refusals: tuple[str, ...] | None, seed: int) -> Callable[[Row], Example]:
    """Makes a contrast pair from a fine-tuning row: its answer over a refusal.

    Args:
        refusals: Refusals to draw from; None takes the built-in ones of the prompt's language.
        seed: Key of the draw. The same prompt gets the same refusal.

    Returns:
        A function from row to pair. It raises what ``fine_tuning_example`` raises, and ``DroppedError`` where
        the row's own answer is a refusal.
    """

    def contrast_pair(row: Row) -> Example:
        example = fine_tuning_example(row)
        answer = final_answer(example.answer)
        if answer is None:
            raise DroppedError("answer is unfinished thinking")
        if refuses(answer):
            raise DroppedError("answer is a refusal")
        known = refusals or REFUSALS[language_of(example.prompt.text)]
        drawn = known[keyed_hash(seed, "refusal", example.prompt.text) % len(known)]
        return replace(example, rejected=drawn, rejected_drawn=True).checked()

    return contrast_pair
