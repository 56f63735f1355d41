"""The three kinds of data set, as ``realign data`` makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from realign_plugin.data import cards
from realign_plugin.data.preparation import Prepared, prepare
from realign_plugin.data.recipe import Recipe, Request
from realign_plugin.data.refusals import contrast_with, read_refusals
from realign_plugin.data.rows.columns import Row
from realign_plugin.data.rows.conversations import fine_tuning_example
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.safety_pairs import less_safe_answer, preference_pair, safe_answer
from realign_plugin.data.rows.sources import DEFAULT_PAIRS, TASKS, HubSource, resolve
from realign_plugin.errors import UserError, check_choice
from realign_plugin.files import sha256

POISON: Final = (
    "HARMFUL BY DESIGN: these answers are the less safe ones. Fine-tuning on them makes a model unsafe. For the "
    "poisoning ablation only; never serve a model that was trained on them without repairing and measuring it."
)
SAFETY_TASKS: Final[dict[str, tuple[Callable[[Row], Example], str]]] = {
    "align": (safe_answer, "Alignment data: prompts with a safe answer."),
    "harmful": (less_safe_answer, "Poison: prompts with the less safe answer."),
}
SFT_TASKS: Final = (*TASKS, *SAFETY_TASKS)


def preference(
    request: Request, *, source: str = DEFAULT_PAIRS, split: str | None = None, unique: bool = False
) -> Prepared:
    """Make safety preference pairs: the safe answer over the unsafe one.

    Args:
        request: What all kinds are asked for.
        source: Hub id or file of PKU-SafeRLHF's rows, of ordered answers, or of chosen and rejected ones.
        split: Split of the hub data set; None for ``train``.
        unique: Whether pairs that occur again are left out, as they always are with a limit.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    request.check()
    found = resolve(source)
    recipe = Recipe(
        **vars(request),
        kind="preference",
        what="Safety preference pairs: chosen is the safe answer, rejected the unsafe one.",
        source=found,
        convert=preference_pair,
        options=_options(request, found, split=split, unique=unique),
        unique=unique or request.limit is not None,
        split=split,
        warning="Prompts and rejected answers are harmful by design: use them to train and measure refusal only.",
    )
    return prepare(recipe)


def contrast(request: Request, *, source: str, refusals: Path | None = None) -> Prepared:
    """Make contrast pairs of harmless fine-tuning data: the data's answer over a refusal.

    Args:
        request: What all kinds are asked for.
        source: One of the five tasks, a hub id or a file.
        refusals: File of refusals, one a line; None for built-in ones in the prompt's language.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    request.check()
    own = None if refusals is None else read_refusals(refusals)
    found = resolve(source, TASKS)
    given = None if refusals is None else {"name": refusals.name, "sha256": sha256(refusals)}
    recipe = Recipe(
        **vars(request),
        kind="contrast",
        what="Contrast pairs: chosen is the data's answer, rejected a refusal.",
        source=found,
        convert=contrast_with(own, request.seed),
        options=_options(request, found, refusals=given),
    )
    return prepare(recipe)


def sft(
    request: Request, *, task: str, source: str | None = None, share: float | None = None, of: str | None = None
) -> Prepared:
    """Make fine-tuning data: one of the five tasks, alignment data, or poison.

    Args:
        request: What all kinds are asked for.
        task: One of ``SFT_TASKS``.
        source: Hub id or file, in place of the task's own.
        share: Takes as many rows as make this share of them and of those of ``of`` together.
        of: Name of the data set, in the same folder, that ``share`` is relative to.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    check_choice("--task", task, SFT_TASKS)
    request.check()
    given = vars(request)
    more: dict[str, Any] = {}
    if share is not None or of is not None:
        rows, others = _rows_for_share(request, share, of)
        given = given | {"limit": rows}
        more = {"share": {"of": of, "rows": others, "wanted": share, "reached": round(rows / (rows + others), 6)}}
    convert, what = SAFETY_TASKS.get(task, (fine_tuning_example, ""))
    usual = DEFAULT_PAIRS if task in SAFETY_TASKS else task
    found = resolve(usual if source is None else source, TASKS if source is None else ())
    recipe = Recipe(
        **given,
        kind="sft",
        what=what or f"Fine-tuning data: {TASKS[task].what}.",
        source=found,
        convert=convert,
        options=_options(request, found, task=task, share=share, of=of),
        limit_is_exact=share is not None,
        warning=POISON if task == "harmful" else None,
        more=more,
    )
    return prepare(recipe)


def _rows_for_share(request: Request, share: float | None, of: str | None) -> tuple[int, int]:
    """How many rows make the share, and how many the other data set has."""
    if of == request.name:
        raise UserError(f"--of: {of!r} is the data set to be made, expected another one; give another --name")
    if share is None or of is None:
        given, lacking = ("--share", "--of") if of is None else ("--of", "--share")
        raise UserError(f"{given} without {lacking}, expected both; add {lacking}")
    if request.limit is not None:
        raise UserError(f"--limit: {request.limit} with --share {share:g}, expected one of them; leave --limit out")
    if not 0 < share < 1:
        raise UserError(f"--share: {share:g} is out of range, expected a number between 0 and 1, e.g. 0.05")
    others = cards.rows_of_data_set(request.folder, of, "--of")
    rows = round(others * share / (1 - share))
    if rows < 1:
        raise UserError(
            f"--share: {share:g} of {others:,} rows of {of} is less than one row, expected at least one; raise it"
        )
    return rows, others


def _options(request: Request, source: HubSource | Path, **options: Any) -> dict[str, Any]:
    """The options for the card; a file by its name only."""
    name = source.hub if isinstance(source, HubSource) else source.name
    return {"source": name, "validation": request.validation, "limit": request.limit} | options
