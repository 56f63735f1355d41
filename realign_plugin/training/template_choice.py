"""Which of LLaMA-Factory's chat templates a tokenizer's own is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from realign_plugin.chat_templates import thinking
from realign_plugin.errors import UserError

QUESTION: Final = "What colour is the sky?"
ANSWER: Final = "It is blue."


def template_of(model: str) -> str | None:
    """The template that renders an exchange as the tokenizer does, with its answer and without; without thinking.

    Args:
        model: A chat model: a folder or a hub id.

    Returns:
        Its name; None where none of the named ones does, and what LLaMA-Factory reads off the tokenizer does.

    Raises:
        UserError: If the tokenizer has no chat template, or none of them renders as it does; the closest is named.
    """
    from llamafactory.data.template import TEMPLATES, parse_template
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template is None:
        raise UserError(f"BASE: the tokenizer of {model} has no chat template, expected a chat model; give one")
    asked = [{"role": "user", "content": QUESTION}]
    said = [*asked, {"role": "assistant", "content": ANSWER}]
    silent = thinking(tokenizer, on=False)
    texts = (
        tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **silent),
        tokenizer.apply_chat_template(said, tokenize=False, **silent),
    )
    # As tokens and back, as the templates' are: a small vocabulary may not have every word.
    wanted = tuple(str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))) for text in texts)
    found: dict[str, tuple[str, str]] = {}
    for name in TEMPLATES:
        rendered = _rendered(partial(TEMPLATES.get, name), tokenizer, said)
        if rendered is not None:
            if _same(rendered, wanted):
                return str(name)
            found[name] = rendered
    if isinstance(tokenizer.chat_template, str):
        rendered = _rendered(partial(parse_template, tokenizer), tokenizer, said)
        if rendered is not None and _same(rendered, wanted):
            return None
    closest = max(found, key=lambda name: difflib.SequenceMatcher(None, found[name][1], wanted[1]).ratio())
    raise UserError(
        f"--template: none of LLaMA-Factory's renders an exchange as the tokenizer of {model} does, expected one "
        f"that does; the closest is {closest!r}: compare them, then give --template NAME"
    )


def _rendered(find: Callable[[], Any], tokenizer: Any, messages: list[dict[str, str]]) -> tuple[str, str] | None:
    from llamafactory.data.template import ReasoningTemplate

    try:
        template = find()
        if isinstance(template, ReasoningTemplate):
            template = dataclasses.replace(template, enable_thinking=False)
        prompt, answer = template.encode_oneturn(tokenizer, messages)
        return str(tokenizer.decode(prompt)), str(tokenizer.decode(prompt + answer))
    except Exception:  # templates of other tokenizers, or one read off an odd one, fail in many ways
        return None


def _same(one: tuple[str, ...], two: tuple[str, ...]) -> bool:
    return one[0] == two[0] and one[1].rstrip() == two[1].rstrip()
