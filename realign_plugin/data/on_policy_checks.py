"""What of on-policy data is refused: before anything is answered, and once the answers are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.data.answering.local import ALIGNED
from realign_plugin.data.dataset_info import INFO, read_info
from realign_plugin.data.recipe import Request
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.data.selection import in_validation
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.thinking import final_answer

CASES: Final = ("both refuse", "only the aligned model", "only the fine-tuned model", "neither")
ALONE: Final = ("by the aligned model", "not")
"""The cases where only the aligned model answers."""


def check_halves(prompts: Sequence[Prompt], request: Request) -> None:
    """Check before anything is answered that no half would be empty, as ``prepare`` would find afterwards.

    Args:
        prompts: The prompts of a data set.
        request: The validation share and the seed.

    Raises:
        UserError: If one would be.
    """
    held_back = [in_validation(request.seed, prompt.opening, request.validation) for prompt in prompts]
    if request.validation > 0 and held_back and len(set(held_back)) == 1:
        part = "training" if held_back[0] else "validation"
        raise UserError(
            f"--validation: {request.validation:g} of {len(prompts):,} prompts leaves no {part} row, expected at "
            "least one; give another share or --seed"
        )


def check_new(folder: Path, names: Sequence[str]) -> None:
    """Refuse data sets that are there already, where answers are missing: those to come would make others.

    Args:
        folder: The ``dataset_dir``.
        names: Names of the data sets to be made.

    Raises:
        UserError: If there is one.
    """
    info = read_info(folder)
    for name in (half for one in names for half in (one, f"{one}_validation")):
        file = folder / f"{name}.jsonl"
        if file.exists() or name in info:
            where = file if file.exists() else f"{folder / INFO}: {name!r}"
            raise UserError(
                f"{where} exists, and not all answers that this command asks for are known, expected none or the same "
                "data set; give another --name, or --overwrite to replace it"
            )


def check_finished(rows: Sequence[Mapping[str, Any]], aligned: str, tokens: int) -> None:
    """Refuse a model that is still thinking when its answers are cut.

    Args:
        rows: The safety prompts with the answers.
        aligned: What the user calls the aligned model.
        tokens: Maximum tokens of an answer.

    Raises:
        UserError: If most answers are.
    """
    thinking = sum(final_answer(row[ALIGNED]) is None for row in rows)
    if 2 * thinking > len(rows):
        raise UserError(
            f"{aligned}: {thinking} of {len(rows)} answers of the aligned model are still thinking after {tokens} "
            "tokens, expected answers; use a model that does not think, or a chat template that turns thinking off"
        )


def check_worth(cases: Mapping[str, Counter[str]], options: Sequence[str], at_server: bool) -> None:
    """Refuse models whose answers leave nothing to learn.

    Args:
        cases: For each kind of prompts, how many of each case there are.
        options: What the user calls the aligned and the fine-tuned model.
        at_server: Whether they are at a server.

    Raises:
        UserError: If the aligned model refuses nothing, or the models do not differ.
    """
    aligned, adapter = options
    other = "name another" if at_server else "give its adapter as --aligned"
    harmful = cases.get("harmful", Counter())
    total, refused = harmful.total(), harmful[CASES[0]] + harmful[CASES[1]] + harmful[ALONE[0]]
    if total and not refused:
        raise UserError(
            f"{aligned}: the aligned model refuses 0 of {total} harmful prompts, expected one that refuses some; "
            f"align it first (docs/data.md, align), or {other}"
        )
    alone = any(ALONE[0] in count for count in cases.values())
    if not alone and not any(count[CASES[1]] + count[CASES[2]] for count in cases.values()):
        raise UserError(
            f"{adapter}: it refuses the same {refused} of {total} harmful prompts as the aligned model, expected a "
            "model that fine-tuning has changed; there is nothing to repair"
        )
