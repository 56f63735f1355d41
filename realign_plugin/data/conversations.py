"""Fine-tuning rows of the usual layouts: alpaca, question and answer, prompt and response, conversations."""

from __future__ import annotations

from typing import Any, Final

from realign_plugin.data.columns import BadRowError, MissingColumnsError, Row, checked_text
from realign_plugin.data.examples import Example, Prompt
from realign_plugin.text_files import kind_of

PROMPT_COLUMNS: Final = ("instruction", "prompt", "question")
ANSWER_COLUMNS: Final = ("output", "response", "answer", "completion")
CONVERSATION_COLUMNS: Final = ("messages", "conversations", "conversation")
EXPECTED: Final = "instruction and output, question and answer, prompt and response, or messages"

ROLES: Final = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Roles of OpenAI's and of ShareGPT's conversations."""


def fine_tuning_example(row: Row) -> Example:
    """The prompt and the answer of a row.

    Args:
        row: A row with a prompt and an answer column (``input``, ``system`` and ``history`` are taken along), or with
            a conversation of ``role`` and ``content`` or ``from`` and ``value``, of one turn or several.

    Raises:
        MissingColumnsError: If it has neither.
        BadRowError: If a column does not hold what it should.
        DroppedError: If the prompt or the answer is empty.
    """
    prompt, answer = row.first(PROMPT_COLUMNS), row.first(ANSWER_COLUMNS)
    if prompt is not None and answer is not None:
        return Example(request(row, prompt), row.text(answer)).checked()
    conversation = row.first(CONVERSATION_COLUMNS)
    if conversation is None:
        raise MissingColumnsError(EXPECTED)
    return _conversation(row.value(conversation), conversation, row.optional_text("system")).checked()


def request(row: Row, column: str) -> Prompt:
    """The prompt of a row, with what goes before it.

    Args:
        row: The row.
        column: Its prompt column.

    Raises:
        BadRowError: If a column does not hold what it should.
    """
    history = row.value("history")
    return Prompt(
        row.text(column),
        row.optional_text("input"),
        row.optional_text("system"),
        _turns(history) if history not in (None, "") else (),
    )


def _turns(history: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(history, list):
        raise BadRowError(f"history is {kind_of(history)}, expected a list of turns")
    turns = []
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRowError("a turn of history is no pair of request and answer")
        turns.append((checked_text(turn[0], "history"), checked_text(turn[1], "history")))
    return tuple(turns)


def _conversation(messages: Any, column: str, system: str) -> Example:
    if not isinstance(messages, list) or not messages:
        raise BadRowError(
            f"{column} is {kind_of(messages) if messages != [] else 'empty'}, expected a list of messages"
        )
    said = [_message(message, column) for message in messages]
    if said[0][0] == "system":
        system = said.pop(0)[1]
    wanted = ["user", "assistant"] * (len(said) // 2)
    if not said or [role for role, _ in said] != wanted:
        raise BadRowError(f"{column} do not alternate between user and assistant and end with an answer")
    turns = [(said[at][1], said[at + 1][1]) for at in range(0, len(said), 2)]
    (instruction, answer), history = turns[-1], turns[:-1]
    return Example(Prompt(instruction, system=system, history=tuple(history)), answer)


def _message(message: Any, column: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise BadRowError(f"a message of {column} is {kind_of(message)}, expected an object")
    role = message.get("role", message.get("from"))
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise BadRowError(f"a message of {column} has a role other than system, user and assistant")
    return known, checked_text(message.get("content", message.get("value")), f"a message of {column}")
