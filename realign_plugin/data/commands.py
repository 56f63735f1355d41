"""The commands ``realign data …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make LLaMA-Factory data sets: preference pairs, contrast pairs, fine-tuning data.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="LLaMA-Factory's dataset_dir; made if it is missing.")]
Validation = Annotated[
    float, typer.Option(help="Share of prompts held back as NAME_validation; no prompt is in both.")
]
Limit = Annotated[
    int | None, typer.Option(help="At most so many training rows, at random; a smaller limit's are among a larger's.")
]
Seed = Annotated[int, typer.Option(help="Key of the split and of all choices.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a data set of that name that differs.")]


@app.callback(no_args_is_help=True)
def data() -> None:
    """Make LLaMA-Factory data sets: preference pairs, contrast pairs, fine-tuning data."""


@app.command()
def preference(
    folder: Folder,
    source: Annotated[
        str, typer.Option(help="Hub id or file: PKU-SafeRLHF's rows, two ordered answers, or chosen and rejected.")
    ] = "PKU-Alignment/PKU-SafeRLHF-30K",
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "preference",
    validation: Validation = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    split: Annotated[str | None, typer.Option(help="Split of the hub data set.", show_default="train")] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Leave out pairs that occur again; --limit does too.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Safety preference pairs: the safe answer over the unsafe one."""
    from realign_plugin.data import kinds
    from realign_plugin.data.report import print_report

    print_report(
        kinds.preference(
            folder,
            source=source,
            name=name,
            validation=validation,
            limit=limit,
            seed=seed,
            split=split,
            unique=unique,
            overwrite=overwrite,
        )
    )


@app.command()
def contrast(
    folder: Folder,
    source: Annotated[
        str, typer.Option(help="alpaca_en, alpaca_zh, alpaca_hi, code_alpaca, gsm8k, a hub id or a file.")
    ],
    name: Annotated[str, typer.Option(help="Name of the data set.")],
    refusals: Annotated[Path | None, typer.Option(help="File of refusals, one a line; default: built in.")] = None,
    validation: Validation = 0.0,
    limit: Limit = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Contrast pairs of harmless data: its answer over a refusal."""
    from realign_plugin.data import kinds
    from realign_plugin.data.report import print_report

    print_report(
        kinds.contrast(
            folder,
            source=source,
            name=name,
            refusals=refusals,
            validation=validation,
            limit=limit,
            seed=seed,
            overwrite=overwrite,
        )
    )


@app.command()
def sft(
    folder: Folder,
    task: Annotated[
        str, typer.Option(help="alpaca_en, alpaca_zh, alpaca_hi, code_alpaca, gsm8k, align or harmful (poison).")
    ],
    source: Annotated[str | None, typer.Option(help="Hub id or file, in place of the task's own.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: the task.")] = None,
    validation: Validation = 0.0,
    limit: Limit = None,
    share: Annotated[
        float | None, typer.Option(help="Take as many rows as make this share of them and of --of together.")
    ] = None,
    of: Annotated[str | None, typer.Option(help="Data set in DIR that --share goes by.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tuning data: one of the five tasks, alignment data, or poison."""
    from realign_plugin.data import kinds
    from realign_plugin.data.report import print_report

    print_report(
        kinds.sft(
            folder,
            task=task,
            source=source,
            name=name,
            validation=validation,
            limit=limit,
            share=share,
            of=of,
            seed=seed,
            overwrite=overwrite,
        )
    )
