"""The answer of a model that thinks first: what comes after the thinking, the only part that users read."""

from __future__ import annotations

import re
from typing import Final

_OPENING: Final = (
    r"(?<!`)(?:<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
)
_CLOSING: Final = (
    r"(?<!`)(?:</(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>)"
)
_BLOCK: Final = re.compile(f"{_OPENING}.*?{_CLOSING}", re.DOTALL)
_OPEN: Final = re.compile(_OPENING)
_CLOSE: Final = re.compile(_CLOSING)

_OPENED: Final = re.compile(rf"({_OPENING})\s*\Z")

_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_END: Final = re.compile(r"<\|(?:end|return|start|call|channel)\|>")
_BARE_FINAL: Final = re.compile(r"\A\s*(?:analysis|commentary)(?=\S).*?assistantfinal", re.DOTALL)
_BARE_THINKING: Final = re.compile(r"\Aanalysis(?=[A-Z\"“'])")
"""gpt-oss's channels where its special tokens were left out: ``analysisWe should …assistantfinalIt is …``."""


def opened_by(prompt: str) -> str:
    """The tag with which a prompt opens the thinking, as some chat templates do; empty where it does not.

    Put before the answer, it tells thinking that was cut off from an answer.

    Args:
        prompt: What the model continued.
    """
    found = _OPENED.search(prompt)
    return found[1] if found else ""


def final_answer(text: str) -> str | None:
    """What a model answered once it had thought.

    Read are ``<think>…</think>`` and the tags like it, ``</think>`` alone (the chat template opened it), and gpt-oss's
    channels, with or without their special tokens. A tag right after a backtick is part of the answer.

    Args:
        text: All that the model wrote.

    Returns:
        The text itself where there is no thinking in it; None where the thinking does not end, so that there is no
        answer.
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        return _final_channel(text, channels)
    bare = _BARE_FINAL.match(text)
    if bare is not None:
        return text[bare.end() :].strip()
    if _BARE_THINKING.match(text):
        return None
    if not (_OPEN.search(text) or _CLOSE.search(text)):
        return text
    rest = _BLOCK.sub("", text)
    closings = list(_CLOSE.finditer(rest))
    if closings:
        rest = rest[closings[-1].end() :]
    return None if _OPEN.search(rest) else rest.strip()


def _final_channel(text: str, channels: list[re.Match[str]]) -> str | None:
    for channel in reversed(channels):
        if channel[1] == "final":
            end = _END.search(text, channel.end())
            return text[channel.end() : end.start() if end else len(text)].strip()
    return None
