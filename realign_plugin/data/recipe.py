"""What ``realign data`` is to make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from realign_plugin.data.dataset_info import check_name
from realign_plugin.data.rows.columns import Row
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.sources import HubSource
from realign_plugin.errors import UserError

Kind = Literal["preference", "contrast", "sft"]


@dataclass(frozen=True)
class Request:
    """Options that all commands have.

    Attributes:
        folder: LLaMA-Factory's ``dataset_dir``.
        name: Name of the data set.
        validation: Share of prompts held back as ``NAME_validation``, from 0 to below 1.
        limit: How many rows the training half gets at most; None for all. A smaller limit keeps a subset of a larger
            one's.
        seed: Key of the split, the limit and the draws.
        overwrite: Whether a data set of that name is replaced.
    """

    folder: Path
    name: str
    validation: float = 0.0
    limit: int | None = None
    seed: int = 0
    overwrite: bool = False

    def check(self) -> None:
        """Refuse a name, a share or a limit that means nothing.

        Raises:
            UserError: With the option and its value.
        """
        check_name("--name", self.name)
        if not 0 <= self.validation < 1:
            raise UserError(
                f"--validation: {self.validation:g} is out of range, expected a share from 0 to below 1, e.g. 0.1"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit: {self.limit} is out of range, expected at least 1; leave it out for all rows")


@dataclass(frozen=True, kw_only=True)
class Recipe(Request):
    """How a data set is made.

    Attributes:
        kind: What its rows are.
        what: What it is, in a sentence, for the card.
        source: Where the rows come from.
        convert: Makes an example of a row.
        options: The command's options, for the card; no path of this machine.
        split: Split of a hub data set, in place of its usual one.
        limit_is_exact: Whether having fewer rows than the limit is an error.
        unique: Whether a row that occurs again is left out; else it is kept and counted.
        warning: A warning for users of the data set.
        left_out: Rows that were left out before these were made, by reason; they are counted as read.
        made_from: Where the rows of the source come from, for the card, where that is a file made on the way.
        more: Further facts for the card.
    """

    kind: Kind
    what: str
    source: HubSource | Path
    convert: Callable[[Row], Example]
    options: Mapping[str, Any]
    split: str | None = None
    limit_is_exact: bool = False
    unique: bool = True
    warning: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    made_from: Sequence[HubSource | Path] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source_name(self) -> str:
        """The source's hub id, or the name of its file."""
        return self.source.hub if isinstance(self.source, HubSource) else self.source.name
