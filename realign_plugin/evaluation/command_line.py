"""The options that ``lm_eval`` knows, read off its parser's source without importing it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.host_sources import check_known, host_files, texts_of_calls


@lru_cache
def known_options() -> tuple[str, ...]:
    """Names of ``lm_eval``'s options without their dashes; empty where it is not installed or built otherwise."""
    words = texts_of_calls(host_files("lm_eval", "_cli/run.py"), "add_argument")
    return tuple(word.removeprefix("--") for word in words if word.startswith("--"))


def check_options(options: Mapping[str, Any], what: str) -> None:
    """Refuse an option that ``lm_eval`` does not have.

    Args:
        options: Options without their dashes.
        what: The section that holds them.

    Raises:
        UserError: With the closest names.
    """
    known = known_options()
    for name in options:
        check_known(what, name, known, known)


def check_metadata(metadata: Mapping[str, Any], what: str) -> None:
    """Refuse metadata that are nearly one of ours, a value of ours that means nothing, and a folder that is missing.

    Args:
        metadata: lm-eval's ``--metadata``.
        what: The section that holds them.

    Raises:
        UserError: For the first mistake.
    """
    from realign_plugin.evaluation.judging.settings import KEY, URL, EvaluationSettings, check_settings

    check_settings(metadata, what)
    # Whether a key is there, and which server, is the evaluating machine's business.
    environ = {name: value for name, value in os.environ.items() if name != URL} | {KEY: "none"}
    settings = EvaluationSettings.load(metadata, environ)
    if settings.safety_data is not None and not os.path.isdir(settings.safety_data):
        raise UserError(
            f"{what}.safety_data: {settings.safety_data} is not a folder, expected one with NAME.json; check it"
        )
