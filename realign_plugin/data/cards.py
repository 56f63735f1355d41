"""The card of a data set: what it is, where it comes from, and what happened to every row."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from realign_plugin import __version__
from realign_plugin.data.halves import Half
from realign_plugin.data.recipe import Recipe
from realign_plugin.data.rows.hub import HubRows
from realign_plugin.data.rows.reading import FileRows
from realign_plugin.data.rows.sources import provenance
from realign_plugin.data.tallies import Tally
from realign_plugin.errors import UserError
from realign_plugin.files import sha256
from realign_plugin.text_files import read_json

FORMAT: Final = 1


def file_name(name: str) -> str:
    """Name of a data set's card."""
    return f"{name}.card.json"


def make(
    recipe: Recipe, rows: FileRows | HubRows, tally: Tally, training: Half, validation: Half, files: Sequence[Path]
) -> dict[str, Any]:
    """The card of a data set. It holds no time and no path, so that the same command gives the same card.

    Args:
        recipe: What is made.
        rows: The source's rows.
        tally: What happened to them.
        training: The training half.
        validation: The validation half.
        files: The finished data files.
    """
    card: dict[str, Any] = {
        "format": FORMAT,
        "name": recipe.name,
        "kind": recipe.kind,
        "what": recipe.what,
        "options": dict(recipe.options),
        "source": provenance(recipe.source, recipe.split),
        "seed": recipe.seed,
        "counts": {
            "read": tally.read,
            "written": len(training),
            "validation": len(validation),
            "dropped": dict(sorted(tally.dropped.items())),
            "bad": dict(sorted(tally.bad.items())),
        },
        "distinct_prompts": {"training": training.distinct_prompts, "validation": validation.distinct_prompts},
        "first_bad_rows": [{rows.unit: place, "reason": reason} for place, reason in tally.first_bad],
        "files": {path.name: sha256(path) for path in files},
        "versions": _versions(rows),
    }
    if recipe.kind == "preference":
        card["counts"] |= {"contradictions": tally.contradictions, "repeated": tally.repeated}
    if recipe.made_from:
        card["sources"] = [provenance(one, None) for one in recipe.made_from]
    if recipe.warning:
        card["warning"] = recipe.warning
    return card | dict(recipe.more)


def _versions(rows: FileRows | HubRows) -> dict[str, str]:
    """Versions of what the files' bytes depend on."""
    versions = {"realign-plugin": __version__, "python": platform.python_version()}
    library = "datasets" if isinstance(rows, HubRows) else "pyarrow" if rows.suffix == ".parquet" else None
    if library is not None:
        versions[library] = metadata.version(library)
    return versions


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """A data set's card; None where it has none, or what is there is not a card.

    Args:
        folder: The ``dataset_dir``.
        name: Name of the data set.
    """
    try:
        card = read_json(folder / file_name(name), "", "a card")
    except UserError:
        return None
    counts = card.get("counts")
    if not isinstance(counts, dict) or not isinstance(counts.get("written"), int):
        return None
    return card


def rows_of_data_set(folder: Path, name: str, option: str) -> int:
    """How many training rows a data set has, by its card.

    Args:
        folder: The ``dataset_dir``.
        name: Name of the data set.
        option: The option that gave the name.

    Raises:
        UserError: If it has no card.
    """
    card = read(folder, name)
    if card is None:
        held = sorted(path.name.removesuffix(".card.json") for path in folder.glob("*.card.json"))
        raise UserError(
            f"{option}: {name!r} has no card in {folder}, expected one of {', '.join(held) or 'none yet'}; "
            "make it with realign data first"
        )
    return int(card["counts"]["written"])


def data_sets(folder: Path, name: str) -> set[str]:
    """Names of the data sets whose files an earlier run of the same name wrote, by its card.

    Args:
        folder: The ``dataset_dir``.
        name: Name of the data set.
    """
    files = (read(folder, name) or {}).get("files")
    return {str(file).removesuffix(".jsonl") for file in files} if isinstance(files, dict) else set()
