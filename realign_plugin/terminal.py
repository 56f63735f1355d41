"""Printing to the terminal: names, paths and answers are never read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    numbers: bool = False,
    total: Sequence[str] | None = None,
    piped: int = PIPED,
) -> None:
    """Print a table.

    Args:
        columns: Heads of the columns.
        rows: Cells of each row.
        title: Printed above it.
        numbers: Whether all columns but the first are aligned to the right.
        total: A last row, below a rule.
        piped: Columns of the terminal where the output is not one.
    """
    from rich.table import Table

    table = Table(title=title)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if numbers and place else "left")
    for row in rows:
        table.add_row(*row)
    if total is not None:
        table.add_section()
        table.add_row(*total)
    new_console(piped).print(table)
