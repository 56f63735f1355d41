"""The three kinds of data set, as ``realign data`` makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from realign_plugin.data import cards
from realign_plugin.data.columns import Row
from realign_plugin.data.conversations import fine_tuning_example
from realign_plugin.data.dataset_info import check_name
from realign_plugin.data.examples import Example
from realign_plugin.data.preparation import Prepared, prepare
from realign_plugin.data.recipe import Recipe
from realign_plugin.data.refusals import contrast_with, read_refusals
from realign_plugin.data.safety_pairs import less_safe_answer, preference_pair, safe_answer
from realign_plugin.data.sources import DEFAULT_PAIRS, TASKS, HubSource, resolve
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
    folder: Path,
    *,
    source: str = DEFAULT_PAIRS,
    name: str = "preference",
    validation: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    split: str | None = None,
    unique: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Make safety preference pairs: the safe answer over the unsafe one.

    Args:
        folder: LLaMA-Factory's ``dataset_dir``.
        source: Hub id or file of PKU-SafeRLHF's rows, of ordered answers, or of chosen and rejected ones.
        name: Name of the data set.
        validation: Share of prompts held back as ``NAME_validation``, from 0 to below 1.
        limit: At most so many training rows; a smaller limit's rows are among a larger one's.
        seed: Key of the split and the limit.
        split: Split of the hub data set; None for ``train``.
        unique: Whether pairs that occur again are left out, as they always are with a limit.
        overwrite: Whether a data set of that name is replaced.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    _check(name, validation, limit)
    found = resolve(source)
    return prepare(
        Recipe(
            folder=folder,
            name=name,
            kind="preference",
            what="Safety preference pairs: chosen is the safe answer, rejected the unsafe one.",
            source=found,
            convert=preference_pair,
            options=_options(found, validation=validation, limit=limit, split=split, unique=unique),
            unique=unique or limit is not None,
            split=split,
            validation=validation,
            limit=limit,
            seed=seed,
            overwrite=overwrite,
            warning="Prompts and rejected answers are harmful by design: use them to train and measure refusal only.",
        )
    )


def contrast(
    folder: Path,
    *,
    source: str,
    name: str,
    refusals: Path | None = None,
    validation: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Prepared:
    """Make contrast pairs of harmless fine-tuning data: the data's answer over a refusal.

    Args:
        folder: LLaMA-Factory's ``dataset_dir``.
        source: One of the five tasks, a hub id or a file.
        name: Name of the data set.
        refusals: File of refusals, one a line; None for built-in ones in the prompt's language.
        validation: Share of prompts held back.
        limit: At most so many training rows.
        seed: Key of the split, the limit and the refusals.
        overwrite: Whether a data set of that name is replaced.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    _check(name, validation, limit)
    own = None if refusals is None else read_refusals(refusals)
    found = resolve(source, TASKS)
    given = None if refusals is None else {"name": refusals.name, "sha256": sha256(refusals)}
    return prepare(
        Recipe(
            folder=folder,
            name=name,
            kind="contrast",
            what="Contrast pairs: chosen is the data's answer, rejected a refusal.",
            source=found,
            convert=contrast_with(own, seed),
            options=_options(found, validation=validation, limit=limit, refusals=given),
            validation=validation,
            limit=limit,
            seed=seed,
            overwrite=overwrite,
        )
    )


def sft(
    folder: Path,
    *,
    task: str,
    source: str | None = None,
    name: str | None = None,
    validation: float = 0.0,
    limit: int | None = None,
    share: float | None = None,
    of: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Prepared:
    """Make fine-tuning data: one of the five tasks, alignment data, or poison.

    Args:
        folder: LLaMA-Factory's ``dataset_dir``.
        task: One of ``SFT_TASKS``.
        source: Hub id or file, in place of the task's own.
        name: Name of the data set; None for the task's.
        validation: Share of prompts held back.
        limit: At most so many training rows.
        share: Takes as many rows as make this share of them and of those of ``of`` together.
        of: Name of the data set, in the same folder, that ``share`` goes by.
        seed: Key of the split and the limit.
        overwrite: Whether a data set of that name is replaced.

    Raises:
        UserError: If an option is wrong, or as ``preparation.prepare`` says.
    """
    check_choice("--task", task, SFT_TASKS)
    name = task if name is None else name
    _check(name, validation, limit)
    more: dict[str, Any] = {}
    options: dict[str, Any] = {"task": task, "share": share, "of": of}
    rows = limit
    if share is not None or of is not None:
        if of == name:
            raise UserError(f"--of: {of!r} is the data set to be made, expected another one; give another --name")
        rows, others = _rows_for_share(folder, share, of, limit)
        more = {"share": {"of": of, "rows": others, "wanted": share, "reached": round(rows / (rows + others), 6)}}
    convert, what = SAFETY_TASKS.get(task, (fine_tuning_example, ""))
    usual = DEFAULT_PAIRS if task in SAFETY_TASKS else task
    found = resolve(usual if source is None else source, TASKS if source is None else ())
    return prepare(
        Recipe(
            folder=folder,
            name=name,
            kind="sft",
            what=what or f"Fine-tuning data: {TASKS[task].what}.",
            source=found,
            convert=convert,
            options=_options(found, validation=validation, limit=limit, **options),
            validation=validation,
            limit=rows,
            limit_is_exact=share is not None,
            seed=seed,
            overwrite=overwrite,
            warning=POISON if task == "harmful" else None,
            more=more,
        )
    )


def _rows_for_share(folder: Path, share: float | None, of: str | None, limit: int | None) -> tuple[int, int]:
    """How many rows make the share, and how many the other data set has."""
    if share is None or of is None:
        given, lacking = ("--share", "--of") if of is None else ("--of", "--share")
        raise UserError(f"{given} without {lacking}, expected both; add {lacking}")
    if limit is not None:
        raise UserError(f"--limit: {limit} with --share {share:g}, expected one of them; leave --limit out")
    if not 0 < share < 1:
        raise UserError(f"--share: {share:g} is out of range, expected a number between 0 and 1, e.g. 0.05")
    others = cards.rows_of_data_set(folder, of, "--of")
    rows = round(others * share / (1 - share))
    if rows < 1:
        raise UserError(
            f"--share: {share:g} of {others:,} rows of {of} is less than one row, expected at least one; raise it"
        )
    return rows, others


def _check(name: str, validation: float, limit: int | None) -> None:
    check_name("--name", name)
    if not 0 <= validation < 1:
        raise UserError(f"--validation: {validation:g} is out of range, expected a share from 0 to below 1, e.g. 0.1")
    if limit is not None and limit < 1:
        raise UserError(f"--limit: {limit} is out of range, expected at least 1; leave it out for all rows")


def _options(source: HubSource | Path, **options: Any) -> dict[str, Any]:
    """The options for the card; a file by its name only."""
    return {"source": source.hub if isinstance(source, HubSource) else source.name} | options
