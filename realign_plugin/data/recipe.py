"""What ``realign data`` is to make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from realign_plugin.data.columns import Row
from realign_plugin.data.examples import Example
from realign_plugin.data.sources import HubSource

Kind = Literal["preference", "contrast", "sft"]


@dataclass(frozen=True)
class Recipe:
    """What is to be made.

    Attributes:
        folder: LLaMA-Factory's ``dataset_dir``.
        name: Name of the data set.
        kind: What its rows are.
        what: What it is, in a sentence, for the card.
        source: Where the rows come from.
        convert: Makes an example of a row.
        options: The command's options, for the card; no path of this machine.
        split: Split of a hub data set, in place of its usual one.
        validation: Share of prompts that go to the validation half.
        limit: How many rows the training half gets at most; None for all.
        limit_is_exact: Whether fewer are refused.
        seed: Key of the split, the limit and the draws.
        overwrite: Whether a data set of that name is replaced.
        unique: Whether a row that occurs again is left out; else it is kept and counted.
        warning: What a user of the data set must know.
        more: Further facts for the card.
    """

    folder: Path
    name: str
    kind: Kind
    what: str
    source: HubSource | Path
    convert: Callable[[Row], Example]
    options: Mapping[str, Any]
    split: str | None = None
    validation: float = 0.0
    limit: int | None = None
    limit_is_exact: bool = False
    seed: int = 0
    overwrite: bool = False
    unique: bool = True
    warning: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source_name(self) -> str:
        """The source's hub id, or the name of its file."""
        return self.source.hub if isinstance(self.source, HubSource) else self.source.name
