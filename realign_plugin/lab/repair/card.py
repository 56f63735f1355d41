"""The model card of a repaired adapter: what it is, its base, its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from realign_plugin import __version__
from realign_plugin.lab.records import Row
from realign_plugin.lab.repair.dial import Candidate
from realign_plugin.lab.repair.outcome import Verdict, measured
from realign_plugin.lab.repair.plan import Inputs

SHOWN: Final = {
    "refusal_rate": "refuses harmful",
    "over_refusal": "refuses harmless",
    "agreement_harmful": "agreement, harmful",
    "agreement_benign": "agreement, harmless",
    "skill": "skill: tokens predicted",
}
METHODS: Final = {"masks": "a safety subspace (mask) exported as LoRA", "lora": "plain LoRA"}


def card(inputs: Inputs, rows: Sequence[Row], verdict: Verdict, kept: Candidate) -> str:
    """The text of ``README.md``, in the Hugging Face Hub's form.

    Args:
        inputs: What the user gave.
        rows: Aligned, fine-tuned and repaired.
        verdict: Whether the repair worked.
        kept: What was kept.
    """
    # A local path means nothing elsewhere, and is private.
    base = Path(inputs.base).name if Path(inputs.base).exists() else inputs.base
    heads = [name for name in SHOWN if name in measured(rows)]
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags: [lora, safety, realign-plugin]",
        "---",
        "",
        f"# {inputs.adapter.name}, repaired",
        "",
        f"A LoRA adapter of {base} whose refusals fine-tuning had weakened, repaired with `realign repair` "
        f"(realign-plugin {__version__}) by self-distillation: {METHODS[kept.method]}, strength {kept.strength:g}.",
        "",
        verdict.sentence,
        "",
        f"| model | {' | '.join(SHOWN[name] for name in heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for row in rows:
        lines.append(f"| {row.model} | {' | '.join(row.cell(name).text() for name in heads)} |")
    judged = "" if inputs.judge is None else f" Harmful answers as judged by {inputs.judge}."
    lines += [
        "",
        f"95 % intervals in brackets. Measured on prompts that the repair did not use; refusals by phrases.{judged}",
        "",
        "A repaired model is not a safe model: measure it on your own prompts.",
    ]
    return "\n".join(lines) + "\n"
