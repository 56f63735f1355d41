"""The terminal: names, paths and answers of models are printed as they are, never read as markup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

PIPED: Final = 140
"""Columns where the output is not a terminal."""


def new_console(piped: int = PIPED) -> Console:
    """A console on which ``[red]`` and ``:bug:`` are text; give a ``style`` for colour.

    Args:
        piped: Columns where the output is not a terminal.
    """
    from rich.console import Console

    width = None if Console().is_terminal else piped
    return Console(width=width, markup=False, emoji=False, highlight=False)
