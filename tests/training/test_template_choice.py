"""The template that renders as a tokenizer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from realign_plugin import UserError
from realign_plugin.training.template_choice import template_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


HYBRID = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "OPENED{% endif %}{% endif %}"
)
"""As Qwen3's: thinks unless it is told not to."""


@pytest.fixture
def character_model(tmp_path: Path) -> Path:
    """A tokenizer that knows every character and ChatML's tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special: dict[str, Any] = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", **special)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def with_template(folder: Path, template: str | None) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_chatml_is_found_by_name(character_model: Path) -> None:
    from llamafactory.data.template import TEMPLATES

    name = template_of(str(character_model))
    assert name is not None
    assert TEMPLATES[name].format_user.slots == ["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]


def test_one_of_its_own_is_read_off_the_tokenizer(lab: Path) -> None:
    assert template_of(str(lab / "base")) is None


@pytest.mark.parametrize("opened", ["", "{% else %}{{ '<think>\n' }}"], ids=["itself", "opened by the template"])
def test_one_that_thinks_unless_told_not_to(character_model: Path, opened: str) -> None:
    from llamafactory.data.template import TEMPLATES, ReasoningTemplate

    name = template_of(with_template(character_model, HYBRID.replace("OPENED", opened)))
    assert name is not None
    assert isinstance(TEMPLATES[name], ReasoningTemplate)
    assert TEMPLATES[name].enable_thinking  # the host's own template is as before


def test_one_that_cannot_be_told_is_refused_with_the_closest(character_model: Path) -> None:
    odd = CHATML.replace("m['content']", "(m['content'] | upper if m['role'] == 'user' else m['content'])")
    no_end = CHATML.replace("m['content'] + '<|im_end|>'", "(m['content'] if m['role'] == 'user' else '')")
    for template in (odd, no_end):  # the host cannot read the second off the tokenizer
        with pytest.raises(UserError, match=r"--template: none of .* the closest is '\w+'"):
            template_of(with_template(character_model, template))


def test_a_model_without_a_template(character_model: Path) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        template_of(with_template(character_model, None))
