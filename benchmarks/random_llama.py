"""What several benchmarks train: a tokenizer of made-up words, adapters moved by random steps, pairs of one length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKERS = ["<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<system>"]


def write_tokenizer(folder: Path, count: int) -> int:
    """A tokenizer of ``count`` words and some markers, with a chat template; the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*MARKERS, *(f"w{n}" for n in range(count))]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<user> {{ m['content'] }} <assistant>"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }} <eos>"
        "{% elif m['content'] %}<system> {{ m['content'] }}{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    return len(words)


def write_adapters(adapted: Any, folder: Path, names: Sequence[str]) -> None:
    """LoRA adapters of a PEFT model, each a random step from the one before."""
    import torch

    with torch.no_grad():
        for name in names:
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    parameter.add_(torch.randn_like(parameter), alpha=0.01)
            adapted.save_pretrained(folder / name)


def write_pairs(folder: Path, tokens: int, count: int, *, words: int, shorter: int = 0) -> None:
    """Preference pairs of random words, and the ``dataset_info.json`` that names them.

    Args:
        folder: The ``dataset_dir``.
        tokens: Length of prompt and chosen answer together, markers included.
        count: Number of pairs.
        words: Words of the tokenizer.
        shorter: By how many words the rejected answers are shorter.
    """
    import torch

    generator = torch.Generator().manual_seed(1)

    def text(length: int) -> str:
        return " ".join(f"w{n}" for n in torch.randint(words, (length,), generator=generator).tolist())

    half = tokens // 2
    rows = [
        {"instruction": text(half - 2), "input": "", "chosen": text(half - 1), "rejected": text(half - 1 - shorter)}
        for _ in range(count)
    ]
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
