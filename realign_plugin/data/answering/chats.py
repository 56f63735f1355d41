"""Prompts as chats: messages, the chat template, and the tokenizer that has it."""

from __future__ import annotations

from typing import Any

from realign_plugin.chat_templates import pad_with_the_end, thinking
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.errors import UserError, cannot_load


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as the messages of a chat, up to where the answer begins."""
    said = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for asked, answered in prompt.history:
        said += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*said, {"role": "user", "content": prompt.text}]


def rendered(tokenizer: Any, prompt: Prompt, base: str, option: str = "--model") -> str:
    """A prompt through a chat template, up to where the answer begins; a model that can think is asked not to.

    Args:
        tokenizer: Has the template.
        prompt: The prompt.
        base: The model that the tokenizer belongs to.
        option: What the user calls it.

    Raises:
        UserError: If the template refuses the prompt's turns, a system prompt say.
    """
    from jinja2 import TemplateError

    given = {"tokenize": False, "add_generation_prompt": True, **thinking(tokenizer, on=False)}
    try:
        return str(tokenizer.apply_chat_template(messages(prompt), **given))
    except TemplateError as error:
        turns = f"{'a system prompt and ' if prompt.system else ''}{2 * len(prompt.history) + 1} turn(s)"
        raise UserError(
            f"{option}: the chat template of {base} refuses a prompt with {turns} "
            f"({' '.join(str(error).split())[:120]}), expected prompts that it takes; correct or leave out such rows"
        ) from error


def chat_tokenizer(base: str, option: str = "--model") -> Any:
    """A chat model's tokenizer, which pads on the left.

    Args:
        base: The model: a folder or a hub id.
        option: What the user calls it.

    Raises:
        UserError: If it cannot be loaded, or has no chat template or no token that ends an answer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    except Exception as error:  # the readers of a damaged tokenizer raise what they like
        raise cannot_load(option, base, error) from error
    if tokenizer.chat_template is None:
        raise UserError(
            f"{option}: the tokenizer of {base} has no chat template, expected a chat model; use an instruct model"
        )
    pad_with_the_end(tokenizer, base, option)
    return tokenizer
