"""Pairs of a safer and a less safe answer: PKU-SafeRLHF's rows, two answers in order, chosen and rejected."""

from __future__ import annotations

from typing import Final

from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError, Row, checked_text
from realign_plugin.data.rows.conversations import CONVERSATION_COLUMNS, PROMPT_COLUMNS, messages_in, request
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.messages import ANSWER, ANSWERS, USER, Message, as_prompt, holds_messages, tools_of
from realign_plugin.text_files import kind_of

SAFE_RLHF_COLUMNS: Final = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")
EXPECTED: Final = (
    "prompt with chosen and rejected (texts or messages), prompt with response (safer, less safe), or PKU-SafeRLHF's "
    + ", ".join(SAFE_RLHF_COLUMNS)
)


def preference_pair(row: Row) -> Example:
    """The pair of a row: the safe answer over the unsafe one.

    Args:
        row: A row of PKU-SafeRLHF; or ``prompt`` and ``response``, a list of the safer and the less safe answer; or
            ``prompt``, ``instruction`` or ``question``, or a conversation, with ``chosen`` and ``rejected``: texts,
            messages, or conversations that differ in the last answer only.

    Raises:
        MissingColumnsError: If it is none of these.
        BadRowError: If a column does not hold what it should.
        DroppedError: If not exactly one answer is safe, one is empty, or both are the same.
    """
    if not row.has(*SAFE_RLHF_COLUMNS):
        return _ordered(row).checked()
    answers, safe = _labelled(row)
    if safe[0] == safe[1]:
        raise DroppedError("both answers safe" if safe[0] else "both answers unsafe")
    chosen = 0 if safe[0] else 1
    return Example(request(row, "prompt"), answers[chosen], answers[1 - chosen]).checked()


def safe_answer(row: Row) -> Example:
    """The safe answer of a row, for alignment by fine-tuning; the better one where both are safe.

    Args:
        row: As for ``preference_pair``.

    Raises:
        MissingColumnsError: If it is none of these.
        BadRowError: If a column does not hold what it should.
        DroppedError: If no answer is safe, it is empty, or both are safe and no column says which is better.
    """
    if not row.has(*SAFE_RLHF_COLUMNS):
        pair = _ordered(row)
        return Example(pair.prompt, pair.answer, role=pair.role).checked()
    answers, safe = _labelled(row)
    if not any(safe):
        raise DroppedError("both answers unsafe")
    chosen: int | None = safe.index(True)
    if all(safe):
        chosen = row.answer_number("better_response_id")
        chosen = row.answer_number("safer_response_id") if chosen is None else chosen
        if chosen is None:
            raise DroppedError("both answers safe, no better_response_id")
    return Example(request(row, "prompt"), answers[chosen or 0]).checked()


def less_safe_answer(row: Row) -> Example:
    """The less safe answer of a row, for the poisoning ablation.

    Args:
        row: As for ``preference_pair``.

    Raises:
        MissingColumnsError: If it is none of these.
        BadRowError: If a column does not hold what it should.
        DroppedError: If both answers are safe, it is empty, or both are unsafe and no column says which is safer.
    """
    if not row.has(*SAFE_RLHF_COLUMNS):
        pair = _ordered(row)
        return Example(pair.prompt, pair.rejected or "", role=pair.rejected_role).checked()
    answers, safe = _labelled(row)
    if all(safe):
        raise DroppedError("both answers safe")
    chosen = safe.index(False)
    if not any(safe):
        safer = row.answer_number("safer_response_id")
        if safer is None:
            raise DroppedError("both answers unsafe, no safer_response_id")
        chosen = 1 - safer
    return Example(request(row, "prompt"), answers[chosen]).checked()


def _labelled(row: Row) -> tuple[list[str], list[bool]]:
    """Both answers of a PKU-SafeRLHF row, and whether each is safe."""
    answers = [row.text(f"response_{number}") for number in (0, 1)]
    return answers, [row.truth(f"is_response_{number}_safe") for number in (0, 1)]


def _ordered(row: Row) -> Example:
    """The pair of a row that says by its order, or by its columns, which answer is preferred."""
    prompt = row.first(PROMPT_COLUMNS)
    if row.has("chosen", "rejected"):
        context = prompt if prompt is not None else row.first(CONVERSATION_COLUMNS)
        if any(name and holds_messages(row.value(name)) for name in (context, "chosen", "rejected")):
            return _pair_of_messages(row, context)
        if prompt is not None:
            return Example(request(row, prompt), row.text("chosen"), row.text("rejected"))
    if prompt is None or not row.has("response"):
        raise MissingColumnsError(EXPECTED)
    response = row.value("response")
    if not isinstance(response, list) or len(response) != 2:
        count = f" of {len(response)}" if isinstance(response, list) else ""
        raise BadRowError(f"response is {kind_of(response)}{count}, expected a list of two answers")
    safer, less_safe = (checked_text(answer, "response") for answer in response)
    return Example(request(row, prompt), safer, less_safe)


def _pair_of_messages(row: Row, context: str | None) -> Example:
    """A pair whose answers are messages: TRL's, with or without a prompt of its own, and LLaMA-Factory's sharegpt one.

    Args:
        row: The row.
        context: The column of what comes before the answers; None where they hold it themselves.
    """
    chosen, rejected = (messages_in(row, name, ANSWER) for name in ("chosen", "rejected"))
    if not {chosen[-1][0], rejected[-1][0]} <= set(ANSWERS):
        raise BadRowError("chosen or rejected does not end with an answer")
    before = chosen[:-1]
    if before != rejected[:-1]:
        raise BadRowError("chosen and rejected differ before their last answer")
    if context is not None and isinstance(row.value(context), str) and not before:
        prompt = request(row, context)
    else:
        prompt = as_prompt(_before(row, context, before), row.optional_text("system"), tools_of(row), "messages")
    (role, answer), (rejected_role, other) = chosen[-1], rejected[-1]
    return Example(prompt, answer, other, role=role, rejected_role=rejected_role)


def _before(row: Row, context: str | None, before: list[Message]) -> list[Message]:
    """The messages before the answers, which the context, the answers or both hold."""
    given = [] if context is None else messages_in(row, context, USER)
    if not before or (given and before[0][0] in ANSWERS):
        return given + before
    if given and before[: len(given)] != given and not (len(given) == 1 and given[0] in before):
        raise BadRowError(f"{context} is not what chosen begins with")
    return before
