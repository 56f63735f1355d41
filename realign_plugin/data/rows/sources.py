"""Where data comes from: the data sets of the paper's tasks and of PKU-SafeRLHF, any hub id, any local file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from realign_plugin.data.rows.hub import HubRows
from realign_plugin.data.rows.reading import FileRows, suffix_of
from realign_plugin.errors import UserError


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub.

    Attributes:
        hub: Its id.
        licence: Its licence as its card states it.
        what: What it is, in a few words.
        config: Its configuration.
        split: Its split.
    """

    hub: str
    licence: str = "unknown: see the data set's own card"
    what: str = ""
    config: str | None = None
    split: str = "train"


NON_COMMERCIAL: Final = "CC-BY-NC-4.0"
PKU: Final = "PKU-Alignment/PKU-SafeRLHF"

# Ids and licences as the hub's cards stated them in stored copies of 2024 to 2026.
TASKS: Final[dict[str, HubSource]] = {
    "alpaca_en": HubSource("vicgalle/alpaca-gpt4", NON_COMMERCIAL, "English instructions, answered by GPT-4"),
    "alpaca_zh": HubSource("llamafactory/alpaca_gpt4_zh", "Apache-2.0", "Chinese instructions, answered by GPT-4"),
    "alpaca_hi": HubSource(
        "iamshnoo/alpaca-cleaned-hindi", "not stated on its card", "Alpaca's instructions in Hindi, translated"
    ),
    "code_alpaca": HubSource(
        "sahil2801/CodeAlpaca-20k",
        "CC-BY-4.0 on its card; its repository's data licence is CC-BY-NC-4.0",
        "programming tasks",
    ),
    "gsm8k": HubSource("openai/gsm8k", "MIT", "grade school mathematics, worked out", "main"),
}
"""The five fine-tuning tasks of the paper."""

SAFETY_PAIRS: Final[dict[str, HubSource]] = {
    f"{PKU}{size}": HubSource(
        f"{PKU}{size}", NON_COMMERCIAL, "questions with two answers each, labelled safe or unsafe by people"
    )
    for size in ("-30K", "-10K", "")
}
DEFAULT_PAIRS: Final = f"{PKU}-30K"

BORDERLINE: Final = "borderline"
"""The name of our own harmless prompts that sound dangerous; none of them is in XSTest or OR-Bench."""

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(source: str, names: Iterable[str] = ()) -> HubSource | Path:
    """What ``--source`` means: a task's name, a local file or a hub id, in this order.

    Args:
        source: The option as given.
        names: Tasks whose names are allowed.

    Raises:
        UserError: If it is none of these.
    """
    if source == BORDERLINE:
        return Path(str(resources.files("realign_plugin.data.rows") / "borderline_prompts.json"))
    allowed = list(names)
    if source in allowed:
        return TASKS[source]
    path = Path(source)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        raise UserError(f"--source: {source} is a folder, expected a file; give one of its files")
    known = {entry.hub: entry for entry in (*TASKS.values(), *SAFETY_PAIRS.values())}
    if source in known:
        return known[source]
    if suffix_of(source) is not None or source.startswith(("/", "./", "../", "~")):
        raise UserError(f"--source: {source} does not exist, expected a file; check the path")
    if _HUB_ID.fullmatch(source):
        return HubSource(source)
    near = difflib.get_close_matches(source, [*allowed, *known], n=1, cutoff=0.5)
    kinds = f"a task ({', '.join(allowed)}), a file or a hub id" if allowed else "a file or a hub id"
    raise UserError(
        f"--source: {source!r} is unknown, expected {kinds} (OWNER/NAME)"
        + (f"; did you mean {near[0]!r}?" if near else "; check the name")
    )


def rows_of(source: HubSource | Path, split: str | None) -> FileRows | HubRows:
    """The rows of a source.

    Args:
        source: What ``resolve`` returned.
        split: The hub data set's split, in place of its usual one.

    Raises:
        UserError: If the file's suffix is unknown, or a split is asked of a file.
    """
    if isinstance(source, HubSource):
        return HubRows(source.hub, source.config, split or source.split)
    if split is not None:
        raise UserError(f"--split: {split!r} with the file {source.name}, expected a hub id; leave --split out")
    return FileRows(source)


def provenance(source: HubSource | Path, split: str | None) -> dict[str, Any]:
    """A card's description of a source, without any path of this machine.

    Args:
        source: What ``resolve`` returned.
        split: The split asked for.
    """
    from realign_plugin.files import sha256

    if isinstance(source, HubSource):
        return {
            "name": source.hub,
            "config": source.config,
            "split": split or source.split,
            "sha256": None,
            "licence": source.licence,
            "what": source.what,
        }
    return {
        "name": source.name,
        "config": None,
        "split": None,
        "sha256": sha256(source),
        "licence": "unknown: a local file; the licence of the data that it was made from holds",
        "what": "a local file",
    }
