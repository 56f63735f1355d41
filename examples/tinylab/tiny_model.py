"""An untrained tiny Llama with a word-level tokenizer for given texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SYSTEM_TOKENS = ["<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<system>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user> {{ m['content'] }} <assistant>"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }} <eos>"
    "{% elif m['content'] %}<system> {{ m['content'] }}{% endif %}{% endfor %}"
)


def write_model(folder: Path, texts: Iterable[str]) -> None:
    """An untrained Llama of under a million parameters, and its word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    words = dict.fromkeys([*SYSTEM_TOKENS, *(word for text in texts for word in text.split())])
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=64,
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    ).save_pretrained(folder)
