"""Prompts of data sets and files, without their answers; without those that models are measured with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError, Row
from realign_plugin.data.rows.conversations import (
    ANSWER_COLUMNS,
    CONVERSATION_COLUMNS,
    EXPECTED,
    PROMPT_COLUMNS,
    fine_tuning_example,
    request,
)
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.data.rows.sources import TASKS, HubSource, resolve, rows_of
from realign_plugin.data.selection import folded, keyed_hash
from realign_plugin.errors import UserError


@contextmanager
def called(option: str) -> Iterator[None]:
    """Let errors about a source name the option that gave it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--source", option)) from error


def read_prompts(given: Sequence[str], what: str, limit: int | None, seed: int) -> list[Prompt]:
    """The distinct prompts of some sources, in their order; with a limit, those with the smallest keyed hashes.

    Args:
        given: Files, hub ids or names of tasks.
        what: What the user calls the option.
        limit: At most this many.
        seed: Key of the limit.

    Raises:
        UserError: If a source cannot be read, or a row has no prompt.
    """
    found: dict[str, Prompt] = {}
    for one in given:
        with called(what):
            for place, value in rows_of(resolve(one, TASKS), None):
                prompt = _prompt_in(value, f"{what}: {one}, row {place}")
                if prompt.text.strip():
                    found.setdefault(folded(prompt.whole), prompt)
    if given and not found:
        raise UserError(f"{what}: {', '.join(given)} holds no prompt, expected at least one; check the file")
    if limit is None or len(found) <= limit:
        return list(found.values())
    chosen = set(sorted(found, key=lambda text: keyed_hash(seed, "limit", text))[:limit])
    return [prompt for text, prompt in found.items() if text in chosen]


def _prompt_in(value: Any, where: str) -> Prompt:
    try:
        if not isinstance(value, dict):
            raise BadRowError("not an object")
        row = Row(value)
        column = row.first(PROMPT_COLUMNS)
        return fine_tuning_example(row).prompt if column is None else request(row, column)
    except (BadRowError, DroppedError, MissingColumnsError) as error:
        raise UserError(
            f"{where}: {error}, expected a prompt ({', '.join(PROMPT_COLUMNS)}, or messages); correct the row"
        ) from error


def check_overlap(prompts: Sequence[Prompt], evaluation: Sequence[str]) -> None:
    """Refuse prompts that models are to be measured with.

    Args:
        prompts: The prompts to train on.
        evaluation: Files of the evaluation's prompts.

    Raises:
        UserError: With how many there are; none is quoted.
    """
    mine = {folded(prompt.text) for prompt in prompts}
    for file in evaluation:
        shared = [p for p in read_prompts([file], "--evaluation", None, 0) if folded(p.text) in mine]
        if shared:
            raise UserError(
                f"--evaluation: {len(shared)} of its prompts ({file}) are among those to train on, expected none: "
                "prompts that were trained on cannot be used to measure; leave them out of --prompts, --benign or "
                "--skill"
            )


def has_answers(source: Any) -> bool:
    """Whether rows of a source have answers to train on, and not prompts alone or empty answers.

    Args:
        source: What ``resolve`` gives.
    """
    for _, value in rows_of(source, None):
        row = Row(value) if isinstance(value, Mapping) else None
        if row is None or not (row.first(ANSWER_COLUMNS) or row.first(CONVERSATION_COLUMNS)):
            continue
        try:
            fine_tuning_example(row).checked()
        except DroppedError:
            continue
        except (BadRowError, MissingColumnsError):
            pass  # whoever reads the rows says what is wrong with this one
        return True
    return False


def skill_prompts(given: Sequence[str], limit: int | None, seed: int) -> tuple[list[Prompt], list[HubSource | Path]]:
    """Prompts that the fine-tuned model has to answer, and the sources where the answers are there already.

    Args:
        given: Files, hub ids or names of tasks.
        limit: At most so many prompts.
        seed: Key of the limit.

    Raises:
        UserError: If a source cannot be read or has no prompts, or only some have answers.
    """
    if not given:
        return [], []
    with called("--skill"):
        sources = [resolve(one, TASKS) for one in given]
        answered = [has_answers(source) for source in sources]
        first = next((value for _, value in rows_of(sources[0], None)), None)
    if all(answered):
        return [], sources
    if any(answered):
        with_them, without = (given[answered.index(whether)] for whether in (True, False))
        raise UserError(
            f"--skill: {with_them} has answers and {without} has none, expected sources of one kind; give the "
            "others to another data set"
        )
    row = Row(first) if isinstance(first, Mapping) else None
    if row is not None and row.first(PROMPT_COLUMNS) is None:
        raise UserError(
            f"--skill: {given[0]} has no prompts, expected {EXPECTED}, or prompts alone; rename its columns"
        )
    return read_prompts(given, "--skill", limit, seed), []
