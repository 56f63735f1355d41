"""The chat templates that LLaMA-Factory knows, found without importing it (which takes ten seconds)."""

from __future__ import annotations

import ast
from pathlib import Path

from realign_plugin.errors import UserError
from realign_plugin.host_sources import check_known, host_files, nodes, texts_of_calls


def known_templates() -> list[str]:
    """Names that LLaMA-Factory registers; empty where it is not installed or keeps them elsewhere."""
    return texts_of_calls(host_files("llamafactory", "data/template.py"), "register_template", "name")


def replacing_templates() -> list[str]:
    """Those that a training saves in place of the tokenizer's own."""
    calls = (node for node in nodes(host_files("llamafactory", "data/template.py")) if isinstance(node, ast.Call))
    given = [{word.arg: getattr(word.value, "value", None) for word in call.keywords} for call in calls]
    return [str(one["name"]) for one in given if one.get("replace_jinja_template") is True]


def check_template(template: str | None, model: Path) -> None:
    """Refuse a template that LLaMA-Factory does not know, and a model without one where none is named.

    Args:
        template: Its name; None stands for the tokenizer's own.
        model: The base model; nothing is said of one that is not a folder here.

    Raises:
        UserError: With the closest name, or that a template has to be named.
    """
    if template is not None:
        known = known_templates()
        check_known("template", template, known, known[:4])
        return
    if has_chat_template(model) is False:
        raise UserError(
            f"template: is not given and the tokenizer of {model} has no chat template, expected one of "
            "LLaMA-Factory's; add `template: NAME`"
        )


def has_chat_template(model: Path) -> bool | None:
    """Whether a model's tokenizer brings a chat template; None for one that is not a folder here."""
    config = model / "tokenizer_config.json"
    if not config.exists():
        return None
    return (model / "chat_template.jinja").exists() or '"chat_template"' in config.read_text(encoding="utf-8")
