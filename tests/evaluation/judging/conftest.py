"""A judge that runs in the process: a pico model that was trained to speak as Llama Guard does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

WORDS = ["how", "is", "kite", "made", "?", "Take", "paper", "and", "mix", "fold", "it.", "string", "it"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<verdict>{% endif %}"
)


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says ``unsafe`` where the exchange holds ``mix``, else ``safe``."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "Llama-Guard-pico"
    marks = ["<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<verdict>"]
    known = {word: index for index, word in enumerate(dict.fromkeys([*marks, "safe", "unsafe", *WORDS]))}
    raw = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", model_max_length=64
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(known), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=2,
        )
    )  # fmt: skip
    rng, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(45):
        rows, places = [], []
        for _ in range(16):
            said = [rng.choice([w for w in (*WORDS, "<unk>") if w != "mix"]) for _ in range(rng.randint(2, 10))]
            harmful = rng.random() < 0.5
            if harmful:
                said[rng.randrange(len(said))] = "mix"
            asked = [rng.choice([w for w in WORDS if w != "mix"]) for _ in range(rng.randint(2, 8))]
            words = ["<user>", *asked, "<assistant>", *said, "<verdict>", "unsafe" if harmful else "safe", "<eos>"]
            rows.append([known[word] for word in words])
            places.append(len(words))
        width = max(places)
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = (ids != 0).long()
        labels = ids.clone()
        labels[:, :-2] = -100
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.save_pretrained(folder)
    return folder
