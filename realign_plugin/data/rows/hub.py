"""Rows of a data set on the Hugging Face hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from realign_plugin.errors import UserError


class HubRows:
    """Iterates over the rows of a hub data set: ``(number, row)``, from 1; nothing is downloaded as a whole.

    Args:
        hub: Its id.
        config: Its configuration; None for the default one.
        split: Its split.

    Attributes:
        unit: What the number of a row counts: ``row``.
        size: None: the length is not known.

    Iterating raises ``UserError`` if the hub cannot be reached, or has no such data set or split.
    """

    unit = "row"
    size = None
    position = 0

    def __init__(self, hub: str, config: str | None, split: str) -> None:
        self.hub = hub
        self.config = config
        self.split = split

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield each row with its number."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"--source: {self.hub} needs datasets, expected it to be installed; pip install datasets, or give "
                "--source FILE"
            ) from error
        try:
            stream = datasets.load_dataset(self.hub, self.config, split=self.split, streaming=True)
            yield from enumerate(stream, 1)
        except Exception as error:  # the hub's client has many errors: offline, gated, renamed; there is one fix
            raise UserError(
                f"--source: {self.hub}, split {self.split!r}, cannot be fetched ({_reason(error)}), expected one that "
                "can be reached; log in to the hub, or give --source FILE"
            ) from error


def _reason(error: Exception) -> str:
    """The kind of an error; for an unknown split or configuration also which ones there are, on one line."""
    if not isinstance(error, ValueError):
        return type(error).__name__
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else f"{words[:200]}…"
