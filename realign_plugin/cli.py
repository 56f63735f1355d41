"""The command ``realign``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from realign_plugin import __version__
from realign_plugin.commands import evaluation, lab, subspaces
from realign_plugin.data.commands import app as data_app
from realign_plugin.errors import UserError

app = typer.Typer(
    help="Repairs the safety of a fine-tuned LLM: train with llamafactory-cli, then export, inspect and check here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Repairs the safety of a fine-tuned LLM: train with llamafactory-cli, then export, inspect and check here."""


def doctor() -> None:
    """Print each host, its version, and whether the plugin is attached to it."""
    from realign_plugin.doctor import print_diagnosis

    raise typer.Exit(0 if print_diagnosis() else 1)


for command in (
    subspaces.export,
    subspaces.transfer,
    subspaces.fuse,
    lab.repair,
    lab.study,
    lab.estimate,
    subspaces.inspect,
    evaluation.judge,
    evaluation.compare,
    lab.report,
    doctor,
    evaluation.tasks_path,
):
    app.command()(command)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; a user's mistake gets one line and exit code 2."""
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not word or (word.startswith("--") and word.endswith("=")):
                raise UserError(
                    f"{word or repr(word)}: an argument is empty, expected none; is a shell variable unset?"
                )
        return app(arguments, standalone_mode=True)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
