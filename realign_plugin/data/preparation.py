"""From a source's rows to a data set: read once, sort into training and validation, publish with a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from realign_plugin.data import cards, dataset_info
from realign_plugin.data.halves import Half
from realign_plugin.data.recipe import Recipe
from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.hub import HubRows
from realign_plugin.data.rows.messages import text_row
from realign_plugin.data.rows.progress import shown
from realign_plugin.data.rows.reading import FileRows
from realign_plugin.data.rows.sources import HubSource, rows_of
from realign_plugin.data.selection import in_validation, keyed_hash
from realign_plugin.data.tallies import Tally
from realign_plugin.errors import UserError
from realign_plugin.files import clean_up, real_folder, try_folder, write_json
from realign_plugin.outputs import refuse_inputs
from realign_plugin.staging import Stage, reported

ROWS_BEFORE_GIVING_UP: Final = 100
"""Rows without the needed columns, from the first on, after which the source is refused."""


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        recipe: What is made.
        tally: What happened to the source's rows.
        card: The card as written.
    """

    recipe: Recipe
    tally: Tally
    card: dict[str, Any]


def prepare(recipe: Recipe) -> Prepared:
    """Make a data set: ``NAME.jsonl``, ``NAME_validation.jsonl``, their entries and ``NAME.card.json``.

    Memory does not grow with the texts: rows are written as they come, and of each a few hashes are kept.

    Args:
        recipe: What is made.

    Raises:
        UserError: If the source cannot be read, lacks columns or leaves no row; if a data set of that name exists and
            differs; or if nothing can be written. Then nothing is.
    """
    source = None if isinstance(recipe.source, HubSource) else recipe.source
    for name in (recipe.name, f"{recipe.name}_validation"):
        refuse_inputs(recipe.folder / f"{name}.jsonl", [source])
    try_folder(recipe.folder)
    rows = rows_of(recipe.source, recipe.split)
    with reported(recipe.folder):
        folder = real_folder(recipe.folder)
        clean_up(folder)
        stage = Stage(folder)
        try:
            return _prepare(recipe, rows, stage.folder)
        finally:
            stage.close()


def _prepare(recipe: Recipe, rows: FileRows | HubRows, work: Path) -> Prepared:
    tally = Tally(rows.unit, recipe.left_out.total(), Counter(recipe.left_out))
    names = [recipe.name, f"{recipe.name}_validation"]
    entries: dict[str, dict[str, Any]] = {}
    with (
        Half(work / "training.rows", recipe.seed, recipe.limit) as training,
        Half(work / "validation.rows", recipe.seed) as validation,
    ):
        sound = 0
        for example in _examples(recipe, rows, tally):
            sound += 1
            held_back = in_validation(recipe.seed, example.prompt.opening, recipe.validation)
            (validation if held_back else training).add(example)
        _check_sizes(recipe, rows, tally, training, validation)
        if beyond := sound - len(training) - len(validation):
            tally.dropped["beyond the limit"] = beyond
        staged = []
        for name, half in zip(names, (training, validation), strict=True):
            if len(half):
                staged.append(work / f"{name}.jsonl")
                extras = half.write(staged[-1])
                entries[name] = dataset_info.entry(f"{name}.jsonl", ranking=recipe.kind != "sft", extras=extras)
                if half is training and recipe.kind != "sft":
                    entries[f"{name}_chosen"] = dataset_info.chosen_entry(entries[name])
        card = cards.make(recipe, rows, tally, training, validation, staged)
    write_json(work / cards.file_name(recipe.name), card)
    earlier = cards.data_sets(recipe.folder, recipe.name)
    dataset_info.publish(
        recipe.folder,
        staged,
        work / cards.file_name(recipe.name),
        entries,
        [name for name in names if name in earlier and name not in entries],
        overwrite=recipe.overwrite,
    )
    return Prepared(recipe, tally, card)


def _examples(recipe: Recipe, rows: FileRows | HubRows, tally: Tally) -> Iterator[Example]:
    """The valid rows, each once where the recipe asks for that; all others are counted."""
    seen: set[int] = set()
    found_columns = False
    missing: tuple[str, str] | None = None
    for place, value in shown(rows, recipe.name):
        tally.read += 1
        try:
            example = recipe.convert(text_row(value))
        except MissingColumnsError as error:
            tally.note_bad(place, "columns are missing")
            missing = missing or (_column_names(value), str(error))
            if not found_columns and tally.bad["columns are missing"] >= ROWS_BEFORE_GIVING_UP:
                break
            continue
        except BadRowError as error:
            tally.note_bad(place, str(error))
            found_columns = found_columns or isinstance(value, dict)
            continue
        except DroppedError as error:
            tally.dropped[str(error)] += 1
            found_columns = True
            continue
        found_columns = True
        key = keyed_hash(0, "row", *example.key)
        if key in seen:
            if recipe.unique:
                tally.dropped["duplicate"] += 1
                continue
            tally.repeated += 1
        seen.add(key)
        turned = example.reversed_key()
        tally.contradictions += turned is not None and keyed_hash(0, "row", *turned) in seen
        yield example
    if missing is not None and not found_columns:
        found, expected = missing
        raise UserError(
            f"--source: {recipe.source_name} has the columns {found or 'none'}, expected {expected}; rename them"
        )


def _column_names(row: dict[Any, Any]) -> str:
    """The columns of a row for an error; cut short, as a CSV file without a header has its first texts there."""
    names = [" ".join(str(name).split()) for name in row]
    short = [name if len(name) <= 24 else f"{name[:24]}…" for name in names[:12]]
    return ", ".join(short) + (", …" if len(names) > 12 else "")


def _check_sizes(recipe: Recipe, rows: FileRows | HubRows, tally: Tally, training: Half, validation: Half) -> None:
    if not len(training) and not len(validation):
        raise UserError(
            f"--source: {recipe.source_name}: no row is left of {tally.read:,} read ({tally.reasons()}), expected at "
            "least one; check the file"
        )
    for half, rest in ((training, validation), (validation, training)):
        if not len(half) and recipe.validation > 0:
            part = "training" if half is training else "validation"
            raise UserError(
                f"--validation: {recipe.validation:g} of {rest.distinct_prompts:,} prompts leaves no {part} row, "
                "expected at least one; give another share or --seed"
            )
    if recipe.limit_is_exact and len(training) != recipe.limit:
        raise UserError(
            f"--share: {recipe.source_name} gives {len(training):,} rows, expected {recipe.limit:,} for that "
            "share; give a smaller one, or a larger --source"
        )
