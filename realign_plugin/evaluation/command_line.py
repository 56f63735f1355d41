"""The options that ``lm_eval`` knows, read off its parser's source without importing it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError, check_choice


@lru_cache
def known_options() -> tuple[str, ...]:
    """Names of ``lm_eval``'s options without their dashes; empty where it is not installed or built otherwise."""
    found = importlib.util.find_spec("lm_eval")
    places = list(found.submodule_search_locations or []) if found is not None else []
    file = Path(places[0]) / "_cli" / "run.py" if places else None
    if file is None or not file.exists():
        return ()
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    words = [
        word.value
        for call in calls
        if getattr(call.func, "attr", "") == "add_argument"
        for word in call.args
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    ]
    return tuple(word.removeprefix("--") for word in words if word.startswith("--"))


def check_options(options: Mapping[str, Any], what: str) -> None:
    """Refuse an option that ``lm_eval`` does not have.

    Args:
        options: Options without their dashes.
        what: The section that holds them.

    Raises:
        UserError: With the nearest names.
    """
    known = known_options()
    for name in options if known else ():
        if name not in known:
            check_choice(what, name, difflib.get_close_matches(name, known, n=4) or list(known))


def check_metadata(metadata: Mapping[str, Any], what: str) -> None:
    """Refuse metadata that are nearly one of ours, a value of ours that means nothing, and a folder that is missing.

    Args:
        metadata: lm-eval's ``--metadata``.
        what: The section that holds them.

    Raises:
        UserError: For the first mistake.
    """
    from realign_plugin.evaluation.settings import EvaluationSettings

    known = list(EvaluationSettings.model_fields)
    for name in metadata:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.8)
        if name not in known and near:
            raise UserError(
                f"{what}: {name!r} is unknown, expected one of docs/evaluate.md; did you mean {near[0]!r}?"
            )
    # Whether a key is there is the evaluating machine's business.
    settings = EvaluationSettings.load({k: v for k, v in metadata.items() if k != "judge"} | {"judge": "off"})
    if settings.safety_data is not None and not os.path.isdir(settings.safety_data):
        raise UserError(
            f"{what}.safety_data: {settings.safety_data} is no folder, expected one with NAME.json; check it"
        )
