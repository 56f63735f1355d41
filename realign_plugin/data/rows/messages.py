"""Messages of a conversation: OpenAI's ``role`` and ``content``, ShareGPT's ``from`` and ``value``, tool calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from realign_plugin.data.rows.columns import BadRowError, DroppedError, Row, checked_text
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.text_files import Broken, NotJsonError, kind_of, parse_json

Message = tuple[str, str]
"""A role, one of LLaMA-Factory's, and its text."""
SYSTEM, USER, ANSWER, CALL, RESULT = "system", "human", "gpt", "function_call", "observation"
ROLES: Final = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "assistant": ANSWER,
    "gpt": ANSWER,
    "function_call": CALL,
    "tool": RESULT,
    "function": RESULT,
    "observation": RESULT,
}
"""OpenAI's and ShareGPT's roles."""
REQUESTS: Final = (USER, RESULT)
ANSWERS: Final = (ANSWER, CALL)
TEXTS: Final = ("text", "input_text", "output_text")
MEDIA: Final = ("image", "video", "audio")
"""Prefixes of the types of parts, and of the names of columns, that hold something other than text."""
BETWEEN_RESULTS: Final = "\n</tool_response>\n<tool_response>\n"
"""What LLaMA-Factory puts between the results of parallel calls, whatever the template."""


def holds_messages(value: Any) -> bool:
    """Whether a column holds a message or a list of messages."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and ("role" in first or "from" in first)


def read_messages(value: Any, column: str) -> list[Message]:
    """The messages of a column; tool results that follow one another are joined.

    Args:
        value: What the column holds: a list of messages, or one of them.
        column: Its name, for the reason.

    Raises:
        BadRowError: If it holds something else.
        DroppedError: If a message holds something that text cannot: an image, or a tool call between words.
    """
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{column} is {kind_of(value) if value != [] else 'empty'}, expected a list of messages")
    said: list[Message] = []
    for message in value:
        role, text = _message(message, column)
        if role == RESULT and said and said[-1][0] == RESULT:
            text = said.pop()[1] + BETWEEN_RESULTS + text
        said.append((role, text))
    return said


def as_prompt(said: Sequence[Message], system: str, tools: str, column: str, end: str = "an answer") -> Prompt:
    """What a model is asked, from the messages before its answer.

    Args:
        said: The messages.
        system: The row's own system prompt; one in the messages takes its place.
        tools: See ``tools_of``.
        column: Where the messages come from, for the reason.
        end: What comes behind them, or their last one is, for the reason.

    Raises:
        BadRowError: If requests and answers do not take turns, or the last message is not a request.
    """
    rest = list(said)
    if systems := [text for role, text in rest[: _systems(rest)]]:
        system, rest = "\n".join(systems), rest[len(systems) :]
    roles = [role for role, _ in rest]
    turns = all(role in (ANSWERS if at % 2 else REQUESTS) for at, role in enumerate(roles))
    if len(rest) % 2 == 0 or not turns:
        raise BadRowError(f"{column} do not alternate between user and assistant and end with {end}")
    history = tuple((rest[at][1], rest[at + 1][1]) for at in range(0, len(rest) - 1, 2))
    plain = all(role in (USER, ANSWER) for role in roles)
    return Prompt(rest[-1][1], "", system, history, tools, () if plain else tuple(roles))


def tools_of(row: Row) -> str:
    """The tools that a row offers, as the JSON text of a list that LLaMA-Factory reads; empty where there are none.

    Raises:
        BadRowError: If the column holds something else.
    """
    value = row.value("tools")
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(checked_text(value, "tools"))
        except NotJsonError as error:
            raise BadRowError("tools is not JSON") from error
    if not value or (isinstance(value, str) and not value.strip()):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRowError(f"tools is {kind_of(value)}, expected a list of objects")
    return checked_text(json.dumps(value, ensure_ascii=False), "tools")


def text_row(value: Any) -> Row:
    """A source's row, if it is of text alone: where it has images, videos or sound, its text is about them.

    Args:
        value: What the source gave.

    Raises:
        BadRowError: If it is broken, or no object.
        DroppedError: If a column such as ``images`` holds something.
    """
    if isinstance(value, Broken):
        raise BadRowError(value.reason)
    if not isinstance(value, dict):
        raise BadRowError(f"row is {kind_of(value)}, expected an object")
    row = Row(value)
    for name in MEDIA:
        for column in (name, f"{name}s"):
            if not _is_nothing(row.value(column)):
                raise DroppedError(f"has {name}s, only text is supported")
    return row


def _is_nothing(value: Any) -> bool:
    """Whether a column holds no value: null, empty, or an object or a list of such."""
    if isinstance(value, (dict, list, tuple)):
        return all(map(_is_nothing, value.values() if isinstance(value, dict) else value))
    return value is None or value is False or (isinstance(value, str) and not value.strip())


def _systems(said: Sequence[Message]) -> int:
    return next((at for at, (role, _) in enumerate(said) if role != SYSTEM), len(said))


def _message(message: Any, column: str) -> Message:
    if not isinstance(message, dict):
        raise BadRowError(f"a message of {column} is {kind_of(message)}, expected an object")
    role = message.get("role", message.get("from"))
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise BadRowError(f"a message of {column} has an unknown role, expected system, user, assistant or tool")
    what = f"a message of {column}"
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls") or message.get("function_call")
    if known == ANSWER and calls:
        if content not in (None, "", []):
            raise DroppedError("words and a tool call in one message")
        return CALL, _calls(calls, what)
    text = _text(content, what)
    if known == CALL:
        try:
            return CALL, _calls(parse_json(text), what)
        except NotJsonError as error:
            raise BadRowError(f"a tool call of {column} is not JSON") from error
    return known, text


def _text(content: Any, what: str) -> str:
    """A message's text; of a list of parts, those of text, a line break between them."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return checked_text(content, what)
    texts = []
    for part in content:
        kind = part.get("type")
        if isinstance(kind, str) and (name := next((name for name in MEDIA if name in kind), None)):
            raise DroppedError(f"has {name}s, only text is supported")
        if kind not in TEXTS:
            raise BadRowError(f"a part of {what} has an unknown type, expected text")
        texts.append(checked_text(part.get("text"), what))
    return "\n".join(texts)


def _calls(calls: Any, what: str) -> str:
    """Tool calls as the JSON text that LLaMA-Factory reads: one object, or a list, of ``name`` and ``arguments``."""
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or "arguments" not in function:
            raise BadRowError(f"{what} calls a tool without name and arguments")
        arguments = function["arguments"]
        if isinstance(arguments, str):  # OpenAI's are JSON text
            try:
                arguments = parse_json(arguments or "{}")
            except NotJsonError as error:
                raise BadRowError(f"{what} calls a tool with arguments that are not JSON") from error
        found.append({"name": function["name"], "arguments": arguments})
    return checked_text(json.dumps(found[0] if len(found) == 1 else found, ensure_ascii=False), what)
