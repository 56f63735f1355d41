"""The model card of a repaired adapter: what it is, its base, its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from realign_plugin import __version__
from realign_plugin.lab.records import Row
from realign_plugin.lab.repair.dial import Candidate
from realign_plugin.lab.repair.outcome import Verdict, flat
from realign_plugin.lab.repair.plan import Inputs
from realign_plugin.subspace.card import base_name, model_card, numbers

METHODS: Final = {"masks": "a safety subspace (mask) exported as LoRA", "lora": "plain LoRA"}


def card(inputs: Inputs, rows: Sequence[Row], verdict: Verdict, kept: Candidate) -> str:
    """The text of ``README.md``, in the Hugging Face Hub's form.

    Args:
        inputs: What the user gave.
        rows: Aligned, fine-tuned and repaired.
        verdict: Whether the repair worked.
        kept: What was kept.
    """
    judged = "" if inputs.judge is None else f" Harmful answers as judged by {inputs.judge}."
    paragraphs = [
        f"A LoRA adapter of {base_name(inputs.base)} whose refusals fine-tuning had weakened, repaired with `realign "
        f"repair` (realign-plugin {__version__}) by self-distillation: {METHODS[kept.method]}, strength "
        f"{kept.strength:g}.",
        verdict.sentence,
        numbers([flat(row) for row in rows]),
        f"95 % intervals in brackets. Measured on prompts that the repair did not use; refusals by phrases.{judged}",
    ]
    return model_card(f"{inputs.adapter.name}, repaired", inputs.base, ["lora"], paragraphs)
