"""A merge with one of our methods: checked first, written aside, moved into place when it is whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_folder
from realign_plugin.merging import reporting, sources
from realign_plugin.merging.checks import METHODS, check_merge
from realign_plugin.merging.rounding import output_dtype

LOG = logging.getLogger(__name__)
MODEL_FILES: Final = (
    "config.json", "model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin",
    "pytorch_model.bin.index.json", "mergekit_config.yml", *(f"{method}_report.json" for method in METHODS),
)  # fmt: skip
"""Patterns of the files that make a model, and of those that a merge describes it in."""
TOKENIZER_FILES: Final = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "merges.txt", "vocab.json", "vocab.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
"""The files that mergekit copies with a tokenizer, or that transformers saves for one."""


class MergeMistake(click.ClickException):  # type: ignore[misc]
    """A user's mistake inside a mergekit command: one line and exit code 2."""

    exit_code = UserError.exit_code

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {self.message}", err=True)


def run_merge(
    original: Callable[..., Any],
    merge_config: MergeConfiguration,
    out_path: str,
    options: MergeOptions,
    config_source: str | None = None,
) -> Any:
    """Stock ``run_merge``, with our checks and our writing around it where a method of ours is used.

    Args:
        original: The stock function.
        merge_config: The configuration.
        out_path: Where the model goes.
        options: mergekit's options.
        config_source: The configuration's text.

    Raises:
        UserError: If something in the configuration cannot work; inside a command a ``click`` error with its line.
    """
    if merge_config.merge_method not in METHODS:
        return original(merge_config, out_path, options=options, config_source=config_source)
    with _one_line():
        sources.forget()
        reporting.clear()
        check_merge(merge_config, Path(out_path), options)
        replaced = list(MODEL_FILES)
        aside = atomic_folder(out_path, replaces=replaced, last="config.json")
        with aside as work, output_dtype(dtype_from_name(merge_config.out_dtype)):
            result = original(merge_config, str(work), options=options, config_source=config_source)
            if (work / "tokenizer_config.json").exists():  # else the tokenizer that is there stays
                replaced += TOKENIZER_FILES
            line = reporting.write(work, merge_config.merge_method)
        sources.forget()
        if line is not None:
            LOG.warning(line)  # mergekit shows only warnings and above unless told otherwise
        return result


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mistake = _user_error(error)
        if mistake is None:
            raise
        if click.get_current_context(silent=True) is None:
            raise mistake from None
        raise MergeMistake(str(mistake)) from None


def _user_error(error: BaseException | None) -> UserError | None:
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None
