"""Checks of a repair's models and prompts before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from realign_plugin.data.answering.chats import rendered
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.errors import UserError, cannot_load
from realign_plugin.subspace.building import check_moved
from realign_plugin.subspace.checkpoints import Checkpoint
from realign_plugin.subspace.lora_adapters import LoraAdapter, check_same_modules, read_lora
from realign_plugin.training.settings.inference import is_quantised_model


def check_model(base: str) -> None:
    """Refuse a base model that is not there; of a hub's model, its small configuration is fetched.

    Args:
        base: The base model: a folder or a hub id.

    Raises:
        UserError: If it cannot be found.
    """
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise cannot_load("BASE", base, error) from error


def check_prompts(tokenizer: Any, base: str, prompts: Iterable[Prompt]) -> None:
    """Refuse prompts that the base model's chat template refuses.

    Args:
        tokenizer: The base model's.
        base: The base model: a folder or a hub id.
        prompts: All that the models will be asked.

    Raises:
        UserError: With the first of them.
    """
    for prompt in prompts:
        rendered(tokenizer, prompt, base, "BASE")


def check_adapters(adapter: Path, aligned: Path | None, base: str) -> None:
    """Refuse adapters that do not fit the base model or each other, or that are the same.

    Args:
        adapter: The fine-tuned model's.
        aligned: The aligned model's; None where the base model itself is aligned.
        base: The base model: a folder or a hub id.

    Raises:
        UserError: If they do not.
    """
    tuned = read_lora(adapter, "ADAPTER")
    check_base(tuned, "ADAPTER", base)
    if aligned is None:
        return check_moved(tuned, None, None, "ADAPTER")
    safe = read_lora(aligned, "--aligned")
    check_base(safe, "--aligned", base)
    check_same_modules(tuned, safe, "ADAPTER", "--aligned")
    return check_moved(tuned, safe, None, "ADAPTER")


def check_base(adapter: LoraAdapter, option: str, base: str) -> None:
    """Refuse an adapter whose factors do not fit a base model's weights.

    A base that is not a folder, or whose weights are stored quantised, is not checked.

    Args:
        adapter: The adapter.
        option: What the user calls it.
        base: The base model: a folder or a hub id.

    Raises:
        UserError: With the first module that does not fit.
    """
    if not Path(base).is_dir() or is_quantised_model(base):
        return
    model = Checkpoint(base, "BASE")
    for module, pair in adapter.factors.items():
        name = model.find(f"{module}.weight")
        if name is None and module == "lm_head":
            name = model.find("model.embed_tokens.weight")  # tied to it
        wanted = (pair["B"].shape[0], pair["A"].shape[1])
        found = model.shape(name) if name else None
        if found not in (wanted, wanted[::-1]):  # GPT-2 stores its linear maps transposed
            there = f"{module} of {base} has shape {found}" if found else f"{base} has no {module}"
            raise UserError(
                f"{option}: {adapter.path} is not an adapter of this base: {there}, expected {tuple(wanted)}; give "
                "the base model that it was trained on"
            )
