"""The chat templates that LLaMA-Factory knows, found without importing it (which takes ten seconds)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from realign_plugin.errors import UserError, check_choice


def known_templates() -> list[str]:
    """Names that LLaMA-Factory registers; empty where it is not installed or keeps them elsewhere."""
    package = importlib.util.find_spec("llamafactory")
    if package is None or not package.submodule_search_locations:
        return []
    file = Path(package.submodule_search_locations[0]) / "data" / "template.py"
    if not file.exists():
        return []
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register_template":
            given = {word.arg: word.value for word in node.keywords}
            value = given.get("name") or (node.args[0] if node.args else None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                names.append(value.value)
    return names


def check_template(template: str | None, model: Path) -> None:
    """Refuse a template that LLaMA-Factory does not know, and a model without one where none is named.

    Args:
        template: Its name; None stands for the tokenizer's own.
        model: The base model; nothing is said of one that is no folder here.

    Raises:
        UserError: With the nearest name, or that a template has to be named.
    """
    if template is not None:
        known = known_templates()
        if known and template not in known:
            _refuse(template, known)
        return
    if has_chat_template(model) is False:
        raise UserError(
            f"template: is not given and the tokenizer of {model} has no chat template, expected one of "
            "LLaMA-Factory's; add `template: NAME`"
        )


def has_chat_template(model: Path) -> bool | None:
    """Whether a model's tokenizer brings a chat template; None for one that is no folder here."""
    config = model / "tokenizer_config.json"
    if not config.exists():
        return None
    return (model / "chat_template.jinja").exists() or '"chat_template"' in config.read_text(encoding="utf-8")


def _refuse(template: str, known: list[str]) -> None:
    import difflib

    near = difflib.get_close_matches(template, known, n=4) or known[:4]
    check_choice("template", template, near)
