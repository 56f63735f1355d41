"""Prompts of data sets and files, without their answers; without those that models are measured with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realign_plugin.data.rows.columns import (
    BadRowError,
    DroppedError,
    MissingColumnsError,
    NoAnswerError,
    Row,
)
from realign_plugin.data.rows.conversations import (
    ANSWER_COLUMNS,
    CONVERSATION_COLUMNS,
    EXPECTED,
    PROMPT_COLUMNS,
    fine_tuning_example,
    prompt_alone,
)
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.data.rows.messages import text_row
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


@dataclass(frozen=True)
class Found:
    """The prompts of some sources.

    Attributes:
        prompts: The distinct ones, in their order.
        left_out: How many other rows there are, by reason.
    """

    prompts: list[Prompt]
    left_out: Counter[str]


@dataclass(frozen=True)
class Skill(Found):
    """The prompts of a skill; where rows have answers, those that are left out are counted with the answers.

    Attributes:
        answered: The sources, where their rows have answers; else the prompts are to be answered.
    """

    answered: list[HubSource | Path]


def read_prompts(given: Sequence[str], what: str, limit: int | None, seed: int) -> Found:
    """The distinct prompts of some sources; with a limit, those with the smallest keyed hashes.

    Args:
        given: Files, hub ids or names of tasks.
        what: What the user calls the option.
        limit: At most this many.
        seed: Key of the limit.

    Raises:
        UserError: If a source cannot be read, a row is malformed, or there is no prompt.
    """
    found: dict[str, Prompt] = {}
    left_out: Counter[str] = Counter()
    for one in given:
        with called(what):
            rows = rows_of(resolve(one, TASKS), None)
            for place, value in rows:
                try:
                    prompt = prompt_alone(text_row(value))
                except DroppedError as error:
                    left_out[str(error)] += 1
                    continue
                except (BadRowError, MissingColumnsError) as error:
                    raise UserError(
                        f"{what}: {one}, {rows.unit} {place}: {error}, expected a prompt "
                        f"({', '.join(PROMPT_COLUMNS)}, or messages); correct the row"
                    ) from error
                if found.setdefault(folded(prompt.whole), prompt) is not prompt:
                    left_out["duplicate"] += 1
    if given and not found:
        why = f" ({in_words(left_out)})" if left_out else ""
        raise UserError(f"{what}: {', '.join(given)} holds no prompt{why}, expected at least one; check the file")
    chosen = _chosen(found, limit, seed)
    if beyond := len(found) - len(chosen):
        left_out["beyond the limit"] = beyond
    return Found(chosen, left_out)


def _chosen(found: Mapping[str, Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """The prompts with the smallest keyed hashes, in their order."""
    if limit is None or len(found) <= limit:
        return list(found.values())
    chosen = set(sorted(found, key=lambda text: keyed_hash(seed, "limit", text))[:limit])
    return [prompt for text, prompt in found.items() if text in chosen]


def in_words(left_out: Mapping[str, int]) -> str:
    """Why rows were left out, on one line.

    Args:
        left_out: How many, by reason.
    """
    return "; ".join(f"{reason} {count:,}" for reason, count in sorted(left_out.items()))


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
        shared = [p for p in read_prompts([file], "--evaluation", None, 0).prompts if folded(p.text) in mine]
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
            fine_tuning_example(text_row(value))
        except (DroppedError, NoAnswerError):
            continue
        except (BadRowError, MissingColumnsError):
            pass  # whoever reads the rows says what is wrong with this one
        return True
    return False


def skill_prompts(given: Sequence[str], limit: int | None, seed: int) -> Skill:
    """The prompts of a skill, and the sources where the answers are there already.

    Args:
        given: Files, hub ids or names of tasks.
        limit: At most so many prompts.
        seed: Key of the limit.

    Raises:
        UserError: If a source cannot be read or has no prompts, or only some have answers.
    """
    if not given:
        return Skill([], Counter(), [])
    with called("--skill"):
        sources = [resolve(one, TASKS) for one in given]
        answered = [has_answers(source) for source in sources]
        first = next((value for _, value in rows_of(sources[0], None)), None)
        if all(answered):
            return Skill(_chosen(_answered(sources), limit, seed), Counter(), sources)
    if any(answered):
        with_them, without = (given[answered.index(whether)] for whether in (True, False))
        raise UserError(
            f"--skill: {with_them} has answers and {without} has none, expected sources of one kind; give the "
            "others to another data set"
        )
    row = Row(first) if isinstance(first, Mapping) else None
    if row is not None and row.first((*PROMPT_COLUMNS, *CONVERSATION_COLUMNS)) is None:
        raise UserError(
            f"--skill: {given[0]} has no prompts, expected {EXPECTED}, or prompts alone; rename its columns"
        )
    found = read_prompts(given, "--skill", limit, seed)
    return Skill(found.prompts, found.left_out, [])


def _answered(sources: Sequence[HubSource | Path]) -> dict[str, Prompt]:
    """The distinct prompts of rows with answers; the others are counted where the data set is made."""
    found: dict[str, Prompt] = {}
    for source in sources:
        for _, value in rows_of(source, None):
            with suppress(BadRowError, DroppedError, MissingColumnsError):
                prompt = fine_tuning_example(text_row(value)).prompt
                found.setdefault(folded(prompt.whole), prompt)
    if not found:
        names = ", ".join(source.hub if isinstance(source, HubSource) else source.name for source in sources)
        raise UserError(f"--skill: {names} holds no prompt with an answer, expected at least one; check the file")
    return found
