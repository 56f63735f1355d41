"""What was made, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.table import Table

from realign_plugin.data.preparation import Prepared
from realign_plugin.terminal import new_console


def print_cases(cases: Mapping[str, Mapping[str, int]]) -> None:
    """Print who refuses what.

    Args:
        cases: For each kind of prompts, how many of each case there are.
    """
    names = list(next(iter(cases.values())))
    table = Table("prompts", "number", *(f"refused: {name}" for name in names))
    for kind, counts in cases.items():
        table.add_row(kind, f"{sum(counts.values()):,}", *(f"{counts[name]:,}" for name in names))
    new_console(110).print(table)


def print_report(prepared: Prepared) -> None:
    """Print what became of the rows, and one line for each kind of bad row.

    Args:
        prepared: What was made.
    """
    card, tally, recipe = prepared.card, prepared.tally, prepared.recipe
    typer.echo(f"{card['name']}: {card['kind']} from {card['source']['name']}")
    table = Table()
    table.add_column("rows")
    table.add_column("count", justify="right")
    table.add_column("distinct prompts", justify="right")
    table.add_row("read", f"{tally.read:,}", "")
    for reason, count in sorted(tally.dropped.items()):
        table.add_row(f"dropped: {reason}", f"{count:,}", "")
    if tally.bad:
        table.add_row("bad", f"{tally.bad.total():,}", "")
    prompts = card["distinct_prompts"]
    table.add_row("training", f"{card['counts']['written']:,}", f"{prompts['training']:,}")
    if card["counts"]["validation"]:
        table.add_row("validation", f"{card['counts']['validation']:,}", f"{prompts['validation']:,}")
    new_console(80).print(table)
    for line in tally.bad_lines():
        typer.echo(line)
    if tally.repeated:
        typer.echo(f"{tally.repeated:,} pairs repeat an earlier one; they are kept (--unique leaves them out)")
    if tally.contradictions:
        typer.echo(f"{tally.contradictions:,} pairs prefer what an earlier pair rejects; they are kept")
    if recipe.limit is not None and card["counts"]["written"] < recipe.limit:
        typer.echo(f"--limit {recipe.limit:,}: there are only {card['counts']['written']:,} training rows")
    if recipe.warning is not None:
        typer.echo(f"warning: {recipe.warning}", err=True)
    typer.echo(f"{', '.join(card['files'])} in {recipe.folder}; its entry is in dataset_info.json, its card beside it")
