"""Fine-tuning rows of the usual layouts: alpaca, question and answer, prompt and response, conversations."""

from __future__ import annotations

from typing import Any, Final

from realign_plugin.data.rows.columns import (
    BadRowError,
    DroppedError,
    MissingColumnsError,
    NoAnswerError,
    Row,
    checked_text,
)
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.data.rows.messages import (
    ANSWER,
    ANSWERS,
    USER,
    Message,
    as_prompt,
    holds_messages,
    read_messages,
    tools_of,
)
from realign_plugin.text_files import kind_of

PROMPT_COLUMNS: Final = ("instruction", "prompt", "question")
ANSWER_COLUMNS: Final = ("output", "response", "answer", "completion")
CONVERSATION_COLUMNS: Final = ("messages", "conversations", "conversation")
EXPECTED: Final = "instruction and output, question and answer, prompt and response, or messages"


def fine_tuning_example(row: Row) -> Example:
    """The prompt and the answer of a row.

    Args:
        row: A row with a prompt and an answer column (``input``, ``system``, ``history`` and ``tools`` are taken
            along), texts or messages; or with a conversation of one turn or several, see ``messages``.

    Raises:
        MissingColumnsError: If it has neither.
        BadRowError: If a column does not hold what it should.
        DroppedError: If the prompt or the answer is empty, or holds something that text cannot.
    """
    prompt, answer = row.first(PROMPT_COLUMNS), row.first(ANSWER_COLUMNS)
    if prompt is not None and answer is not None:
        if not holds_messages(row.value(prompt)) and not holds_messages(row.value(answer)):
            return Example(request(row, prompt), row.text(answer)).checked()
        said = [*messages_in(row, prompt, USER), *messages_in(row, answer, ANSWER)]
        return _example(row, said, f"{prompt} and {answer}")
    conversation = row.first(CONVERSATION_COLUMNS)
    if conversation is None:
        raise MissingColumnsError(EXPECTED)
    return _example(row, read_messages(row.value(conversation), conversation), conversation)


def prompt_alone(row: Row) -> Prompt:
    """The prompt of a row that a model is to answer in words.

    Args:
        row: A row with a prompt column, text or messages (TRL's), or with a conversation; an answer at its end is left
            out.

    Raises:
        MissingColumnsError: If it has neither.
        BadRowError: If a column does not hold what it should.
        DroppedError: If the prompt is empty, has tools, or holds something that text cannot.
    """
    column = row.first(PROMPT_COLUMNS)
    if column is not None and not holds_messages(row.value(column)):
        prompt = request(row, column)
    else:
        column = column or row.first(CONVERSATION_COLUMNS)
        if column is None:
            raise MissingColumnsError("it has none")
        said = read_messages(row.value(column), column)
        said = said[:-1] if said[-1][0] in ANSWERS else said
        prompt = as_prompt(said, row.optional_text("system"), tools_of(row), column, "a request")
    if prompt.tools or prompt.roles:
        raise DroppedError("has tools, only text is supported")
    if not prompt.text.strip():
        raise DroppedError("empty prompt")
    return prompt


def messages_in(row: Row, column: str, role: str) -> list[Message]:
    """The messages of a column; its text is one message.

    Args:
        row: The row.
        column: The column.
        role: Whose the text is.

    Raises:
        BadRowError: As ``read_messages``.
        DroppedError: As ``read_messages``.
    """
    if isinstance(row.value(column), str):
        return [(role, row.text(column))]
    return read_messages(row.value(column), column)


def _example(row: Row, said: list[Message], column: str) -> Example:
    role, answer = said[-1]
    if role not in ANSWERS:
        raise NoAnswerError(f"{column} do not alternate between user and assistant and end with an answer")
    prompt = as_prompt(said[:-1], row.optional_text("system"), tools_of(row), column)
    return Example(prompt, answer, role=role).checked()


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
        tools_of(row),
    )


def _turns(history: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(history, list):
        raise BadRowError(f"history is {kind_of(history)}, expected a list of turns")
    turns = []
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRowError("a turn of history is not a pair of request and answer")
        turns.append((checked_text(turn[0], "history"), checked_text(turn[1], "history")))
    return tuple(turns)
