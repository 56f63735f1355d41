"""What chat templates call a model's thinking, which is turned off wherever we render one, and the end of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError

NAMES: Final = ("enable_thinking", "thinking")
"""The first in Qwen3, GLM 4.5 and SmolLM3, the second in Granite 3.2 and DeepSeek V3.1."""


def thinking(tokenizer: Any, on: bool) -> dict[str, bool]:
    """Variables of a chat template that turn the thinking on or off; empty where it has none.

    Args:
        tokenizer: Has the template.
        on: Whether the model is to think.
    """
    return dict.fromkeys((name for name in NAMES if name in str(tokenizer.chat_template)), on)


def can_think(tokenizer: Any) -> bool:
    """Whether a chat template lets a model think, or answer at once.

    Args:
        tokenizer: Has the template.
    """
    asked = [{"role": "user", "content": "What colour is the sky?"}]
    with_it, without = (
        tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **thinking(tokenizer, on))
        for on in (True, False)
    )
    return bool(with_it != without)


def model_can_think(model: str, cwd: Path | None = None) -> bool:
    """The same of a model; False where its tokenizer cannot be loaded or has no template.

    Args:
        model: A folder or a hub id.
        cwd: What a relative path counts from.
    """
    folder = Path(cwd or ".", model)
    if folder.is_dir():
        files = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
        if not any(name in text for name in NAMES for text in texts):
            return False
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else model)
        return tokenizer.chat_template is not None and can_think(tokenizer)
    except Exception:  # what is wrong with it is said where it is needed
        return False


def pad_with_the_end(tokenizer: Any, model: str, option: str) -> None:
    """Give a tokenizer the token that ends an answer to pad with, where it has none for that.

    Args:
        tokenizer: Changed in place.
        model: The model that it belongs to.
        option: What the user calls it.

    Raises:
        UserError: If it has no token that ends an answer.
    """
    if tokenizer.eos_token is None:
        raise UserError(
            f"{option}: the tokenizer of {model} has no eos_token, expected one, with which an answer ends; add it to "
            "its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
