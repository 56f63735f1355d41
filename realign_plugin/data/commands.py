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
    int | None,
    typer.Option(
        help="Keep at most this many training rows, at random; a smaller limit keeps a subset of a larger one's."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the split and of all random choices.")]
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
    from realign_plugin.data.recipe import Request
    from realign_plugin.data.report import print_report

    request = Request(folder, name, validation, limit, seed, overwrite)
    print_report(kinds.preference(request, source=source, split=split, unique=unique))


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
    from realign_plugin.data.recipe import Request
    from realign_plugin.data.report import print_report

    request = Request(folder, name, validation, limit, seed, overwrite)
    print_report(kinds.contrast(request, source=source, refusals=refusals))


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
    of: Annotated[str | None, typer.Option(help="Data set in DIR that --share is relative to.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tuning data: one of the five tasks, alignment data, or poison."""
    from realign_plugin.data import kinds
    from realign_plugin.data.recipe import Request
    from realign_plugin.data.report import print_report

    request = Request(folder, task if name is None else name, validation, limit, seed, overwrite)
    print_report(kinds.sft(request, task=task, source=source, share=share, of=of))


@app.command("on-policy")
def on_policy(
    folder: Folder,
    prompts: Annotated[list[str], typer.Option(help="Harmful prompts: a file or hub id; may be repeated.")],
    model: Annotated[
        str | None, typer.Option(help="Base model, a chat model: a folder or a hub id. Not needed with a server.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="LoRA adapter of the fine-tuned model; with a server, noted in the cards only. None: the aligned "
            "model alone answers, and no pairs are made."
        ),
    ] = None,
    aligned: Annotated[
        Path | None, typer.Option(help="LoRA adapter of the aligned model; none: the base model is aligned.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible server that has both models.", show_default="OPENAI_BASE_URL"
        ),
    ] = None,
    aligned_name: Annotated[str | None, typer.Option(help="The aligned model's name at the server.")] = None,
    adapter_name: Annotated[str | None, typer.Option(help="The fine-tuned model's name at the server.")] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, help="Concurrent requests to the server; --batch-size is the maximum.")
    ] = 32,
    benign: Annotated[
        list[str] | None, typer.Option(help="Harmless prompts, preferably ones that sound dangerous; may be repeated.")
    ] = None,
    skill: Annotated[list[str] | None, typer.Option(help="Prompts of the new skill, with or without answers.")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(help="Prompts to measure with; none of them may be among the other prompts.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the data set; the others are NAME_skill and NAME_pairs.")
    ] = "on_policy",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many harmful and this many benign prompts.")
    ] = None,
    skill_limit: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many prompts of the skill.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer to a safety prompt.")] = 64,
    skill_max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer to a skill prompt.")] = 256,
    validation: Validation = 0.1,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="How many prompts are answered and saved at a time.", show_default="16; server: 256"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Collect the aligned and the fine-tuned model's own answers; needs only prompts. An interrupted run resumes."""
    from realign_plugin.data import on_policy as made
    from realign_plugin.data.answering.server import named
    from realign_plugin.data.on_policy_options import Amounts, Models, Sources
    from realign_plugin.data.recipe import Request
    from realign_plugin.data.report import print_cases, print_report

    result = made.on_policy(
        Request(folder, name, validation, seed=seed, overwrite=overwrite),
        Sources(prompts, benign or (), skill or (), evaluation or ()),
        Models(model, adapter, aligned, named(server, aligned_name, adapter_name, concurrency)),
        Amounts(limit, skill_limit, max_tokens, skill_max_tokens, batch_size),
    )
    print_cases(result.cases)
    for prepared in result.prepared:
        print_report(prepared)
