"""How far a command is, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from realign_plugin.data.rows.hub import HubRows
from realign_plugin.data.rows.reading import FileRows

EVERY: Final = 500
"""Rows between two updates."""


def shown(rows: FileRows | HubRows, title: str) -> Iterator[tuple[int, Any]]:
    """The rows of a source, with a bar on stderr where that is a terminal.

    Args:
        rows: The source's rows.
        title: What stands before the bar.
    """
    if not sys.stderr.isatty():
        yield from rows
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[read]:,} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=rows.size, read=0)
        for count, item in enumerate(rows, 1):
            yield item
            if count % EVERY == 0:
                bar.update(task, completed=rows.position, read=count)


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that moves a bar on, with a bar on stderr where that is a terminal.

    Args:
        title: What stands before the bar.
        total: How much there is to do.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
