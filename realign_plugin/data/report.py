"""What was made, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from realign_plugin.data.preparation import Prepared
from realign_plugin.terminal import print_table


def print_cases(cases: Mapping[str, Mapping[str, int]]) -> None:
    """Print which model refuses what.

    Args:
        cases: For each kind of prompts, how many of each case there are.
    """
    names = list(next(iter(cases.values())))
    rows = [
        (kind, f"{sum(counts.values()):,}", *(f"{counts[name]:,}" for name in names)) for kind, counts in cases.items()
    ]
    print_table(("prompts", "number", *(f"refused: {name}" for name in names)), rows, piped=110)


def print_report(prepared: Prepared) -> None:
    """Print what happened to the rows, and one line for each kind of bad row.

    Args:
        prepared: What was made.
    """
    card, tally, recipe = prepared.card, prepared.tally, prepared.recipe
    sources = ", ".join(one["name"] for one in card.get("sources", [card["source"]]))
    typer.echo(f"{card['name']}: {card['kind']} from {sources}")
    counts, prompts = card["counts"], card["distinct_prompts"]
    rows = [("read", f"{tally.read:,}", "")]
    rows += [(f"dropped: {reason}", f"{count:,}", "") for reason, count in sorted(tally.dropped.items())]
    if tally.bad:
        rows.append(("bad", f"{tally.bad.total():,}", ""))
    rows.append(("training", f"{counts['written']:,}", f"{prompts['training']:,}"))
    if counts["validation"]:
        rows.append(("validation", f"{counts['validation']:,}", f"{prompts['validation']:,}"))
    print_table(("rows", "count", "distinct prompts"), rows, numbers=True, piped=80)
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
    typer.echo(
        f"{', '.join(card['files'])} in {recipe.folder}; its entry is in dataset_info.json, its card next to it"
    )
