"""The prompt sets: from the hub by default, from a local folder where one is given; one loader for all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from realign_plugin.csv_files import NotCsvError, csv_rows
from realign_plugin.errors import UserError
from realign_plugin.evaluation.sources import SOURCES, Source
from realign_plugin.text_files import (
    Broken,
    NotJsonError,
    json_lines,
    kind_of,
    parse_json,
    read_text,
    text_lines,
)

PROMPT_COLUMNS: Final = ("prompt", "question", "instruction")
CATEGORY_COLUMNS: Final = ("category", "topic", "type", "semanticcategory", "l2-name")
SUBCATEGORY_COLUMNS: Final = ("subcategory", "subtopic", "l3-name")
WRAPPERS: Final = ("prompts", "questions", "instructions", "rows", "data", "examples", "train", "test")
"""What the only key of a JSON object may be called if it holds the list of rows rather than a category."""
SUFFIXES: Final = (".json", ".jsonl", ".csv", ".jsonl.gz")


@dataclass(frozen=True)
class Placed:
    """A row, and where it stands in its file, counted from 1.

    Attributes:
        values: The row.
        number: Of the line, or of the row in JSON and tables.
        unit: Which of the two.
    """

    values: dict[str, Any]
    number: int
    unit: Literal["line", "row"] = "row"


def load_prompts(
    name: str, folder: Path | None = None, *, full: bool = False, category: str | None = None
) -> list[dict[str, str]]:
    """Read one prompt set.

    Args:
        name: A key of ``SOURCES``.
        folder: Local folder that is used instead of the hub.
        full: All prompts in place of the paper's subset.
        category: Only the prompts of this category.

    Returns:
        Rows ``{"id", "prompt", "category", "subcategory"}``; categories are empty where the set has none. Sets of
        attacks have ``"attack"`` besides: what the model is asked.

    Raises:
        UserError: If the set is unknown, its file or columns are missing, or nothing is left.
    """
    if name not in SOURCES:
        raise UserError(f"source: {name!r} is unknown, expected one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    rows, where = _local(source, folder, name) if folder is not None else _hub(source, name)
    rows = _kept(rows, where, source)
    if source.attack is not None:
        rows = [row for row in rows if row.values.get(source.attack)]  # where an attack failed, its authors give none
    chosen = _normalised(rows, where, source, needs_category=category is not None)
    if category is not None:
        known = sorted({row["category"] for row in chosen})
        chosen = [row for row in chosen if row["category"] == category]
        if not chosen:
            raise UserError(f"safety_data: {where} holds no category {category!r}, found {', '.join(known)[:200]}")
    if not full and source.per_group is not None:
        chosen = _first_of_each(chosen, source.per_group)
    if not chosen:
        raise UserError(f"safety_data: {where} holds no prompt, expected at least one; check the file")
    return [{"id": f"{name}-{number:04d}"} | row for number, row in enumerate(chosen)]


def _kept(rows: list[Placed], where: str, source: Source) -> list[Placed]:
    """The rows that a set consists of; names of columns and their values are compared without case."""
    for key, value in source.keep.items():
        found = [{str(k).strip().casefold(): v for k, v in row.values.items()}.get(key.casefold()) for row in rows]
        if key == "label" and all(one is None for one in found):
            raise UserError(
                f"safety_data: {where} has no column label, expected one that says safe or unsafe; take the "
                "set's own file"
            )
        rows = [r for r, v in zip(rows, found, strict=True) if v is None or str(v).strip().casefold() == value]
    return rows


def find_file(folder: Path, files: Iterable[str]) -> Path | None:
    """A file of the folder that has one of the names, whatever its case, spaces, ``-`` and ``_``; None if none has.

    An exact name goes first. Where another set's name differs in those alone, only the exact one counts: AdvBench's
    ``harmful_behaviors`` is not JailbreakBench's ``harmful-behaviors``.
    """
    wanted = [name.lower() for name in files]
    others = {name for source in SOURCES.values() for name in source.files} - set(wanted)
    claimed = {_plain(name) for name in others}
    found = []
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), None)
        if suffix is not None:
            found.append((path.name[: -len(suffix)].lower(), path))
    for name in wanted:
        exact = [path for stem, path in found if stem == name]
        alike = [path for stem, path in found if _plain(stem) == _plain(name) and _plain(name) not in claimed]
        if exact or alike:
            return (exact or alike)[0]
    return None


def _local(source: Source, folder: Path, name: str) -> tuple[list[Placed], str]:
    if not os.path.isdir(folder):
        raise UserError(
            f"safety_data: {folder} is not a folder, expected one with {source.files[0]}.json; check the path"
        )
    file = find_file(folder, source.files)
    if file is None:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"safety_data: {folder} holds {held}, expected {source.files[0]}.json for the set {name}; add it, or "
            "leave safety_data out to use the hub"
        )
    return placed_rows(file, source.inside), str(file)


def read_rows(file: Path, inside: str | None = None, what: str = "safety_data") -> list[dict[str, Any]]:
    """Rows of a file, without their places; see ``placed_rows``.

    Args:
        file: The file.
        inside: Key of the list of rows, where the JSON is an object that has it.
        what: What the user calls it.

    Raises:
        UserError: If the file cannot be read as what its name says.
    """
    return [row.values for row in placed_rows(file, inside, what)]


def placed_rows(file: Path, inside: str | None = None, what: str = "safety_data") -> list[Placed]:
    """Rows of a JSON, JSON Lines (plain or gzipped) or CSV file.

    JSON may be a list of objects, a list of prompts, or prompts nested in categories and subcategories.

    Args:
        file: The file.
        inside: Key of the list of rows, where the JSON is an object that has it.
        what: What the user calls it.

    Raises:
        UserError: If the file cannot be read as what its name says.
    """
    expected = f"{file.suffix} data"
    text = read_text(file, what, expected, "save it again")
    kind = Path(file.stem if file.suffix.lower() == ".gz" else file.name).suffix.lower()
    if kind == ".json":
        return _numbered(_flat(_inner(_parsed(text, file, what), inside)))
    found = csv_rows(io.StringIO(text, newline="")) if kind == ".csv" else json_lines(text_lines(text))
    rows = []
    for number, row in _whole(found, file, what):
        if isinstance(row, Broken):
            raise UserError(
                f"{what}: line {number} of {file} cannot be read ({row.reason}), expected {expected}; fix it"
            )
        if not isinstance(row, dict):
            raise UserError(
                f"{what}: line {number} of {file} holds {kind_of(row)}, expected an object with a prompt; fix it"
            )
        rows.append(Placed(row, number, "line"))
    return rows


def _whole(found: Iterator[tuple[int, Any]], file: Path, what: str) -> Iterator[tuple[int, Any]]:
    """The rows of a file; an error if it is not CSV as a whole."""
    try:
        yield from found
    except NotCsvError as error:
        raise UserError(f"{what}: {file} is not CSV ({error}), expected prompts; save it again") from error


def _parsed(text: str, file: Path | str, what: str = "safety_data") -> Any:
    try:
        return parse_json(text)
    except NotJsonError as error:
        raise UserError(f"{what}: {file} is not JSON ({error}), expected prompts; save it again") from error


def _inner(value: Any, inside: str | None) -> Any:
    if not isinstance(value, dict):
        return value
    if inside is not None and inside in value:
        return value[inside]
    key, *others = [*value] or [""]
    return value[key] if not others and key.lower() in WRAPPERS and isinstance(value[key], list) else value


def _numbered(rows: Iterable[dict[str, Any]]) -> list[Placed]:
    return [Placed(row, number) for number, row in enumerate(rows, 1)]


def _flat(value: Any, path: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [row for key, part in value.items() for row in _flat(part, (*path, str(key)))]
    if not isinstance(value, list):
        value = [value]
    place = dict(zip(("category", "subcategory"), path, strict=False))
    return [place | (item if isinstance(item, dict) else {"prompt": item}) for item in value]


def _hub(source: Source, name: str) -> tuple[list[Placed], str]:
    import datasets

    try:
        if source.hub.startswith("https://"):
            path = datasets.DownloadManager().download(source.hub)
            text = Path(path).read_text(encoding="utf-8")
            if source.hub.endswith(".csv"):
                found = csv_rows(io.StringIO(text, newline=""))
                return [Placed(row, line, "line") for line, row in found if isinstance(row, dict)], source.hub
            return _numbered(_flat(_inner(_parsed(text, source.hub), source.inside))), source.hub
        return _numbered(datasets.load_dataset(source.hub, source.config, split=source.split)), source.hub
    except Exception as error:  # the hub's client has many errors: offline, gated, renamed; the user's way out is one
        way = source.terms or "log in to the hub"
        raise UserError(
            f"{name}: {source.hub} cannot be fetched ({type(error).__name__}), expected access to it; {way}, or give "
            f"a folder with {source.files[0]}.json as safety_data"
        ) from error


def _normalised(rows: list[Placed], where: str, source: Source, needs_category: bool) -> list[dict[str, str]]:
    if not rows:
        raise UserError(f"safety_data: {where} holds no prompt, expected at least one; check the file")
    columns = {str(key).lower(): key for key in rows[0].values}
    own = (source.prompt.lower(),) if source.prompt is not None else ()
    usual = PROMPT_COLUMNS if source.attack is None else ()  # there, ``prompt`` is the attack
    prompt = next((columns[c] for c in (*own, *usual) if c in columns), None)
    category = next((columns[c] for c in CATEGORY_COLUMNS if c in columns), None)
    subcategory = next((columns[c] for c in SUBCATEGORY_COLUMNS if c in columns), None)
    if prompt is None or (needs_category and category is None):
        wanted = (own or ("prompt",))[0] if prompt is None else "category"
        raise UserError(
            f"safety_data: {where} has the columns {', '.join(map(str, rows[0].values))}, expected {wanted}; rename "
            "the column"
        )
    result = []
    for placed in rows:
        row = placed.values
        text = _first_turn(row.get(prompt))
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"safety_data: {placed.unit} {placed.number} of {where} has no text in {prompt}, expected a prompt; "
                "fix it"
            )
        result.append(
            {
                "prompt": text.strip(),
                "category": str(row.get(category) or "") if category else "",
                "subcategory": str(row.get(subcategory) or "") if subcategory else "",
            }
            | ({"attack": str(row[source.attack])} if source.attack is not None else {})
        )
    return result


def _first_turn(value: Any) -> Any:
    """A prompt, or the first turn of a list of turns."""
    return value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value


def _first_of_each(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first so many of each subcategory, or category; all where the set has neither."""
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        group = (row["category"], row["subcategory"])
        if group == ("", ""):
            kept.append(row)
            continue
        seen[group] = seen.get(group, 0) + 1
        if seen[group] <= count:
            kept.append(row)
    return kept


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in "-_ ")
