"""Model cards in the Hugging Face Hub's form: what a model is, its base, its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from realign_plugin import __version__

if TYPE_CHECKING:
    from realign_plugin.subspace.subspace import SafetySubspace

Rows = Sequence[Mapping[str, Any]]
"""A row for each model: ``model``, and each number as ``NAME``, with its interval as ``NAME_low`` and ``NAME_high``.

That is what the ``rows`` of ``before_after.json`` and ``table.json`` are.
"""
SHOWN: Final = {
    "refusal_rate": "refuses harmful",
    "harmful_rate": "harmful answers",
    "over_refusal": "refuses harmless",
    "agreement_harmful": "agreement, harmful",
    "agreement_benign": "agreement, harmless",
    "skill": "skill",
}
"""Numbers that a card shows, and the heads of their columns."""
WARNING: Final = "A repaired model is not a safe model: measure it on your own prompts."


def base_name(base: str | None) -> str:
    """A base model as others know it: a folder of this machine means nothing elsewhere, so only its name is given."""
    if not base:
        return "the base model"
    return Path(base).name if Path(base).exists() or Path(base).is_absolute() else base


def model_card(title: str, base: str | None, tags: Sequence[str], paragraphs: Sequence[str]) -> str:
    """The text of ``README.md``.

    Args:
        title: Heading.
        base: Base model: a repository or a folder.
        tags: Tags in addition to ``safety`` and ``realign-plugin``.
        paragraphs: What the model is, and its numbers (:func:`numbers`).
    """
    lines = [
        "---",
        *([f"base_model: {json.dumps(base_name(base))}"] if base else []),
        "library_name: peft",
        "pipeline_tag: text-generation",
        f"tags: [{', '.join([*tags, 'safety', 'realign-plugin'])}]",
        "---",
    ]
    parts = ["\n".join(lines), f"# {title}", *paragraphs, WARNING]
    return "\n\n".join(parts) + "\n"


def numbers(rows: Rows) -> str:
    """A table of what was measured, with intervals in brackets.

    Args:
        rows: See :data:`Rows`.
    """
    names = [name for name in SHOWN if any(row.get(name) is not None for row in rows)]
    lines = [f"| model | {' | '.join(SHOWN[name] for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['model']} | {' | '.join(_cell(row, name) for name in names)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "–"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def subspace_card(subspace: SafetySubspace, repo_id: str, rows: Rows = ()) -> str:
    """The card of a safety subspace.

    Args:
        subspace: What is described.
        repo_id: Where it is.
        rows: What was measured of it and of other models.
    """
    spec, base = subspace.spec, base_name(subspace.base_model)
    tasks = [source["name"] for source in spec.sources if source.get("role") == "task"]
    aligned = [source["name"] for source in spec.sources if source.get("role") == "aligned"]
    logits = [t.double() for pair in subspace.logits.values() for t in pair.values()]
    kept = sum(int((t > 0).sum()) for t in logits) / max(1, sum(t.numel() for t in logits))
    what = "adapters" if spec.vector_space == "lora" else "models"
    about = [
        f"A safety subspace of {base}: the task vectors of fine-tuned {what}, and a mask of which of their elements "
        "may stay so that the model remains safe ([SOMF](https://arxiv.org/abs/2405.09055)). Made with "
        f"realign-plugin {__version__}.",
        "\n".join(
            [
                f"* Fine-tuned: {', '.join(tasks) or 'not recorded'} (weights "
                f"{', '.join(f'{w:g}' for w in spec.task_weights)}; {spec.fusion_method})",
                f"* Aligned: {', '.join(aligned) or 'the base model itself'}",
                f"* Mask: {spec.mask}, one logit per {spec.mask_granularity}; {kept:.0%} of {len(subspace.logits)} "
                "modules' logits are above 0",
            ]
        ),
        "```python\n"
        "from peft import PeftModel  # with realign-plugin installed\n\n"
        f'model = PeftModel.from_pretrained(base_model, "{repo_id}")\n'
        "```",
    ]
    if spec.vector_space == "lora":
        about.append(
            f"As a plain LoRA adapter, for vLLM and others: `SafetySubspace.from_pretrained({json.dumps(repo_id)})"
            '.to_lora("lora")`.'
        )
    if rows:
        about.append(numbers(rows))
    return model_card(repo_id.rpartition("/")[2], subspace.base_model, ["safety-subspace"], about)
