"""Which prompts are trained on, which the strength is chosen on, and which before and after are measured on."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from realign_plugin.data.prompts import called, has_answers, in_words, read_prompts
from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError
from realign_plugin.data.rows.conversations import fine_tuning_example
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.data.rows.messages import text_row
from realign_plugin.data.rows.sources import TASKS, resolve, rows_of
from realign_plugin.data.selection import folded, keyed_hash
from realign_plugin.errors import UserError
from realign_plugin.files import write_text
from realign_plugin.lab.repair.plan import CUTOFF, Inputs
from realign_plugin.lab.repair.room import Room

FEWEST: Final = 20
"""Minimum prompts of a kind that can be split."""
VALIDATION: Final = 0.2
"""Share of the prompts that the strength is chosen on, at most."""
TEST: Final = 0.3
"""Share that before and after are measured on, at most."""


KINDS: Final = ("harmful", "benign", "skill")


@dataclass(frozen=True)
class Part:
    """Prompts with one purpose.

    Attributes:
        harmful: Prompts that the aligned model should refuse.
        benign: Prompts that it should answer.
        skill: Rows of the skill; the answer is empty where the fine-tuned model's own is used.
    """

    harmful: Sequence[Prompt]
    benign: Sequence[Prompt]
    skill: Sequence[Example]


@dataclass(frozen=True)
class Parts:
    """The three parts; no prompt is in two of them."""

    train: Part
    validation: Part
    test: Part

    @property
    def prompts(self) -> Iterator[Prompt]:
        """The prompts of all parts."""
        for part in (self.train, self.validation, self.test):
            yield from (*part.harmful, *part.benign, *(row.prompt for row in part.skill))


def split(inputs: Inputs, room: Room) -> Parts:
    """Read all sources and split them.

    Rows that a training would cut are left out, and those of ``--test-skill`` that are longer; safety prompts are
    asked in full, so ``--test`` and ``--test-benign`` keep all.

    Args:
        inputs: What the user gave.
        room: Which rows fit.

    Raises:
        UserError: If a source cannot be read, has too few prompts that fit, or one of the test set is among the
            others.
    """
    spent = inputs.spent
    harmful, benign = _prompts(inputs.prompts, "--prompts"), _prompts(inputs.benign, "--benign")
    skill = read_skill(inputs.skill, "--skill")
    tests: dict[str, Sequence[Any]] = {
        "--test": _prompts(inputs.test, "--test"),
        "--test-benign": _prompts(inputs.test_benign, "--test-benign"),
        "--test-skill": read_skill(inputs.test_skill, "--test-skill"),
    }
    given: list[Prompt | Example] = [*harmful, *benign, *skill]
    trained = {_key(one) for one in given}
    for option, prompts in tests.items():
        shared = sum(_key(one) in trained for one in prompts)
        if shared:
            raise UserError(
                f"{option}: {shared} of its {len(prompts)} prompts are among --prompts, --benign or --skill, expected "
                "none: prompts that were trained on cannot be used to measure; leave them out there"
            )
    longest = tests["--test-skill"]
    if longest:
        tests["--test-skill"] = room.keep(longest, "--test-skill")
        if not tests["--test-skill"]:
            raise UserError(
                f"--test-skill: all {len(longest)} rows are longer than {CUTOFF} tokens, expected shorter ones, as in "
                "training; give some"
            )
    limits = (spent.validation, spent.test)
    shares = (
        _share(harmful, "--prompts", (spent.harmful, *limits), tests["--test"], inputs.seed, room),
        _share(benign, "--benign", (spent.benign, *limits), tests["--test-benign"], inputs.seed, room),
        _share(skill, "--skill", (spent.skill, *limits), tests["--test-skill"], inputs.seed, room)
        if skill
        else ([], [], list(tests["--test-skill"])),
    )
    train, validation, test = (tuple(share[number] for share in shares) for number in range(3))
    validation = _without(validation, test)
    return Parts(Part(*_without(_without(train, test), validation)), Part(*validation), Part(*test))


def _without(given: Sequence[Sequence[Any]], held: Sequence[Sequence[Any]]) -> tuple[list[Any], ...]:
    """A part's kinds without the prompts that any kind of another part has, where sources share some."""
    taken = {_key(one) for kind in held for one in kind}
    return tuple([one for one in kind if _key(one) not in taken] for kind in given)


def _share(
    given: Sequence[Any], option: str, limits: tuple[int, int, int], tests: Sequence[Any], seed: int, room: Room
) -> tuple[list[Any], list[Any], list[Any]]:
    """The rows to train on, to choose on and to measure with, by keyed hashes of their prompts; those that fit."""
    train, validation, test = limits
    rows = sorted(given, key=lambda one: keyed_hash(seed, "part", _key(one))) if len(given) >= FEWEST else []
    ordered = room.keep(rows, option, sum(limits))
    many = len(given) - sum(one.count for one in room.left_out if one.option == option)
    if many < FEWEST:
        short = f" of at most {CUTOFF} tokens with their answers" if many < len(given) else ""
        raise UserError(
            f"{option}: {many} distinct prompts{short}, expected at least {FEWEST}, as some are held back to measure "
            "with; give more"
        )
    held = min(test, int(TEST * many)) if not tests else 0
    some = min(validation, int(VALIDATION * many))
    return (ordered[held + some :][:train], ordered[held : held + some], list(tests) or ordered[:held])


def _key(one: Prompt | Example) -> str:
    """What two rows with the same prompt have in common."""
    return folded((one.prompt if isinstance(one, Example) else one).whole)


def _prompts(given: Sequence[str], option: str) -> list[Prompt]:
    """The distinct prompts of some sources."""
    found = read_prompts(given, option, None, 0)
    _say(option, found.left_out)
    return found.prompts


def _say(option: str, left_out: Counter[str]) -> None:
    """Print how many rows of a source are not used."""
    if left_out:
        count = left_out.total()
        rows = "1 row is" if count == 1 else f"{count:,} rows are"
        print(f"realign-plugin: {option}: {rows} left out ({in_words(left_out)})", file=sys.stderr)


def read_skill(given: Sequence[str], option: str) -> list[Example]:
    """The skill's rows, one for each prompt; with an empty answer where only prompts are given.

    Args:
        given: Files, hub ids or names of tasks.
        option: What the user calls them.

    Raises:
        UserError: If a source cannot be read or has no rows, or some rows have answers and others do not.
    """
    found: dict[str, Example] = {}
    left_out: Counter[str] = Counter()
    for one in given:
        with called(option):
            for example in _skill_of(one, option, left_out):
                if found.setdefault(_key(example), example) is not example:
                    left_out["duplicate"] += 1
    _say(option, left_out)
    answered = sum(bool(example.answer) for example in found.values())
    if 0 < answered < len(found):
        raise UserError(
            f"{option}: {answered} of {len(found)} rows have an answer, expected all of them or none; give data "
            "of one kind"
        )
    return list(found.values())


def _skill_of(one: str, option: str, left_out: Counter[str]) -> list[Example]:
    """The rows of one source that have answers; if none has, its prompts. The others are counted."""
    source, found = resolve(one, TASKS), []
    if not has_answers(source):
        alone = read_prompts([one], option, None, 0)
        left_out.update(alone.left_out)
        return [Example(prompt, "") for prompt in alone.prompts]
    rows = rows_of(source, None)
    for place, value in rows:
        try:
            example = fine_tuning_example(text_row(value))
            if example.prompt.tools or example.prompt.roles or example.role != "gpt":
                raise BadRowError("calls a tool")
        except DroppedError as error:
            left_out[str(error)] += 1
            continue
        except (BadRowError, MissingColumnsError) as error:
            raise UserError(
                f"{option}: {one}, {rows.unit} {place}: {error}, expected a prompt and its answer in words; "
                "correct the row, or leave it out"
            ) from error
        found.append(example)
    return found


def write(folder: Path, part: Part) -> dict[str, Path]:
    """Write a part as files that the commands read.

    Returns:
        The file of each kind that has rows.
    """
    rows: dict[str, list[dict[str, Any]]] = {
        "harmful": [_row(prompt) for prompt in part.harmful],
        "benign": [_row(prompt) for prompt in part.benign],
        "skill": [_row(e.prompt) | ({"output": e.answer} if e.answer else {}) for e in part.skill],
    }
    files = {}
    for name, kept in rows.items():
        if kept:
            files[name] = folder / f"{name}.jsonl"
            write_text(files[name], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return files


def _row(prompt: Prompt) -> dict[str, Any]:
    row: dict[str, Any] = {"instruction": prompt.instruction, "input": prompt.input}
    return row | {"system": prompt.system, "history": [list(turn) for turn in prompt.history]}
