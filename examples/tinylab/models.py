"""The models of the table: a base model, with a LoRA adapter or with LoRA updates combined by a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

Update = dict[str, torch.Tensor]
"""Weight update by module: scaling * B @ A, ``[out, in]``."""


def load_base(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The base model and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def read_update(folder: Path, scaling: float) -> Update:
    """What a LoRA adapter adds to each weight."""
    tensors = load_file(folder / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors}
    stem = "base_model.model.{}.lora_{}.weight"
    return {m: scaling * tensors[stem.format(m, "B")] @ tensors[stem.format(m, "A")] for m in sorted(modules)}


def combine(updates: Sequence[tuple[float, Update]]) -> Update:
    """A weighted sum of updates."""
    return {module: sum(weight * update[module] for weight, update in updates) for module in updates[0][1]}


def resta(finetuned: Update, aligned: Update, strength: float) -> Update:
    """RESTA (arXiv 2402.11746): the fine-tuned model plus ``strength`` times the safety vector.

    The safety vector is the aligned model less the unaligned one; the base model of this world is the unaligned one.
    """
    return combine([(1.0, finetuned), (strength, aligned)])


def interpolate(finetuned: Update, aligned: Update, strength: float) -> Update:
    """Linear interpolation from the fine-tuned model (0) to the aligned one (1), as in WiSE-FT (arXiv 2109.01903)."""
    return combine([(1.0 - strength, finetuned), (strength, aligned)])


class Weights:
    """Puts updates into a model and takes them out again."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.original = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def apply(self, update: Mapping[str, torch.Tensor]) -> None:
        """Set the model to the base weights plus an update; an empty update is the base model."""
        for name, parameter in self.model.named_parameters():
            module = name.removesuffix(".weight")
            parameter.copy_(self.original[name] + update[module] if module in update else self.original[name])
