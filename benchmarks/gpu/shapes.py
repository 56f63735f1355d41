"""Random Llamas of known shapes and LoRA adapters for them, made without a file of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_llama import write_tokenizer

WORDS = 500
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = {"all": ALL, "qv": ("q_proj", "v_proj")}


@dataclass(frozen=True)
class Shape:
    """A Llama without its weights."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    heads: int
    key_value_heads: int

    def config(self) -> Any:
        """The configuration of transformers."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=2,
            tie_word_embeddings=False,
            dtype="bfloat16",
        )

    def linears(self, targets: tuple[str, ...] = ALL) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of each linear module."""
        head = self.hidden // self.heads
        sizes = {
            "q_proj": ("self_attn", self.hidden, self.hidden),
            "k_proj": ("self_attn", head * self.key_value_heads, self.hidden),
            "v_proj": ("self_attn", head * self.key_value_heads, self.hidden),
            "o_proj": ("self_attn", self.hidden, self.hidden),
            "gate_proj": ("mlp", self.intermediate, self.hidden),
            "up_proj": ("mlp", self.intermediate, self.hidden),
            "down_proj": ("mlp", self.hidden, self.intermediate),
        }
        for layer in range(self.layers):
            for name in targets:
                part, rows, columns = sizes[name]
                yield f"model.layers.{layer}.{part}.{name}", rows, columns


SHAPES = {
    "7B": Shape("7B", 4096, 32, 11008, 32000, 32, 32),
    "1B": Shape("1B", 2048, 16, 8192, 128256, 32, 8),
    "tiny": Shape("tiny", 64, 2, 160, 1024, 4, 2),
}
"""Llama-2-7B's and Llama-3.2-1B's (its output head untied), and one for a CPU."""


def write_base(shape: Shape, folder: Path) -> Path:
    """The folder of a base model: its configuration and a tokenizer of made-up words, without weights."""
    if not (folder / "config.json").is_file():
        write_tokenizer(folder, WORDS)
        shape.config().save_pretrained(folder)
    return folder


def random_model(config: Any, device: torch.device) -> Any:
    """A Llama with random weights in bf16, made on the device."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.name_or_path = str(getattr(config, "_name_or_path", ""))
    return model


@contextmanager
def built_from_config(device: torch.device) -> Iterator[None]:
    """Within the block, LLaMA-Factory's loader builds models from their configuration on the device."""
    from llamafactory.model import loader

    stock = loader.AutoModelForCausalLM

    class Built(stock):  # type: ignore[misc,valid-type]
        @classmethod
        def from_pretrained(cls, *_: Any, config: Any, **__: Any) -> Any:
            return random_model(config, device)

    loader.AutoModelForCausalLM = Built
    try:
        yield
    finally:
        loader.AutoModelForCausalLM = stock


def write_adapters(
    shape: Shape, rank: int, target: str, base: Path, folder: Path, device: torch.device
) -> dict[str, Path]:
    """LoRA adapters ``aligned`` and ``task``, fp32; the second is the first moved by a random step.

    Args:
        shape: The base model's.
        rank: r; alpha is twice that.
        target: ``all`` or ``qv``.
        base: Folder of the base model.
        folder: Where they go; those that are there are left alone.
        device: Where they are drawn.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    found = {name: folder / f"{shape.name}-r{rank}-{target}" / name for name in ("aligned", "task")}
    if all((path / "adapter_model.safetensors").is_file() for path in found.values()):
        return found
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(TARGETS[target]),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    generator = torch.Generator(device).manual_seed(rank)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device)

    state: dict[str, torch.Tensor] = {}
    for module, rows, columns in shape.linears(TARGETS[target]):
        stem = f"base_model.model.{module}"
        state[f"{stem}.lora_A.weight"] = noise(rank, columns).mul_(columns**-0.5)
        state[f"{stem}.lora_B.weight"] = noise(rows, rank).mul_(0.01)
    for name, path in found.items():
        path.mkdir(parents=True, exist_ok=True)
        if name == "task":
            for tensor in state.values():
                tensor.add_(noise(*tensor.shape), alpha=0.001)
        on_cpu = {key: tensor.cpu() for key, tensor in state.items()}
        save_file(on_cpu, path / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(path)
    return found
