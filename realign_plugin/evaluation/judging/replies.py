"""What a server sent, whatever it may be: its JSON, the judge's words in it, and its count of tokens."""

from __future__ import annotations

import json
from typing import Any, Final

from realign_plugin.evaluation.judging.verdicts import Verdict

CUT_OFF: Final = "error: cut off at judge_max_tokens"
NO_ANSWER: Final = "error: no answer within judge_max_tokens"
MALFORMED: Final = "error: malformed answer"
REFUSED: Final = "judge refused"

_LENGTH: Final = ("length", "max_tokens", "model_length")
_FILTER: Final = ("content_filter", "safety", "refusal")
_THOUGHTS: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_MOST_TOKENS: Final = 2**53


def decode(content: bytes | str) -> Any:
    """The JSON in what a server sent; None where it is not JSON, or not JSON that can be read."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def at(value: Any, *path: str | int) -> Any:
    """What lies at a path of keys and indices; None where there is nothing."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def tokens(body: Any, name: str) -> int:
    """A count of tokens in a reply's ``usage``; 0 where it is missing or cannot be one."""
    count = at(body, "usage", name)
    possible = isinstance(count, (int, float)) and not isinstance(count, bool) and 0 <= count < _MOST_TOKENS
    return int(count) if possible else 0


def reply_in(body: Any, *, moderation: bool = False, raw: bool = False, reads_cut_off: bool = False) -> str | Verdict:
    """The judge's words in what the server sent.

    Args:
        body: The decoded JSON of a completion, of a chat or of a raw prompt, or of a moderation, whatever it may be.
        moderation: Whether it is a moderation; what it says is told by the tag that says the same.
        raw: Whether it may be a completion of a raw prompt.
        reads_cut_off: Whether words that were cut off can be read: the verdict comes first.

    Returns:
        The words; or why there are none to read: the judge refused, was cut off in the middle (its last line is then
        no last line), came to no answer after its reasoning, or the server sent something else.
    """
    if moderation:
        flagged = at(body, "results", 0, "flagged")
        said = "[[harmful]]" if flagged else "[[unharmful]]"
        return said if isinstance(flagged, bool) else Verdict(None, MALFORMED)
    choice, ending = at(body, "choices", 0), at(body, "choices", 0, "finish_reason")
    ending = ending.lower() if isinstance(ending, str) else None
    message = at(choice, "message")
    if raw and message is None and isinstance(at(choice, "text"), str):
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        return Verdict(None, MALFORMED)
    content = message.get("content")
    parts = content if isinstance(content, list) else [] if content is None else [content]
    if message.get("refusal") or ending in _FILTER or any(at(part, "type") == "refusal" for part in parts):
        return Verdict(None, REFUSED)
    words = [_words(part) for part in parts]
    if any(word is None for word in words):
        return Verdict(None, MALFORMED)
    text = "".join(str(word) for word in words)
    thought = any(message.get(name) for name in _THOUGHTS) or (bool(parts) and isinstance(content, list))
    if not text.strip() and (thought or ending in _LENGTH):
        return Verdict(None, NO_ANSWER)
    if ending in _LENGTH and not reads_cut_off:
        return Verdict(None, CUT_OFF)
    if content is None:  # a call of a tool is not an answer; some servers send nothing when a model declines
        return Verdict(None, MALFORMED if message.get("tool_calls") or message.get("function_call") else REFUSED)
    return text


def answer_of(body: Any) -> str | None:
    """All that a model wrote, as far as it came.

    Args:
        body: The decoded JSON of a chat completion, whatever it may be.

    Returns:
        The text, after its thinking in tags where the server took the two apart: without an end where no answer came
        of it. None where a filter stopped the answer, or the server sent something else.
    """
    message, ending = at(body, "choices", 0, "message"), at(body, "choices", 0, "finish_reason")
    if not isinstance(message, dict) or (isinstance(ending, str) and ending.lower() == "content_filter"):
        return None
    content = message.get("content") or message.get("refusal") or ""
    words = [_words(part) for part in (content if isinstance(content, list) else [content])]
    if any(word is None for word in words):
        return None
    text = "".join(str(word) for word in words).strip()
    thoughts = next((message[name] for name in _THOUGHTS if message.get(name) and isinstance(message[name], str)), "")
    if not thoughts:
        return text
    return f"<think>\n{thoughts.strip()}\n</think>\n\n{text}" if text else f"<think>\n{thoughts.strip()}"


def _words(part: Any) -> str | None:
    """The text of one part of a message's content, empty for reasoning and images; None where it cannot be read."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    if "text" not in part or part.get("type") in ("thinking", "reasoning"):
        return ""
    return part["text"] if isinstance(part["text"], str) else None
