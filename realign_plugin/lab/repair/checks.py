"""Checks of a repair's adapters before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from realign_plugin.errors import UserError, cannot_load
from realign_plugin.subspace.checkpoints import Checkpoint
from realign_plugin.subspace.lora_adapters import read_lora


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


def check_base(adapter: Path, option: str, base: str) -> None:
    """Refuse an adapter whose factors do not fit a base model's weights; a base that is not a folder is not checked.

    Raises:
        UserError: With the first module that does not fit.
    """
    factors = read_lora(adapter, option).factors
    if not Path(base).is_dir():
        return
    model = Checkpoint(base, "BASE")
    for module, pair in factors.items():
        name = model.find(f"{module}.weight")
        wanted = (pair["B"].shape[0], pair["A"].shape[1])
        found = model.shape(name) if name else None
        if found not in (wanted, wanted[::-1]):  # GPT-2 stores its linear maps transposed
            there = f"{module} of {base} has shape {found}" if found else f"{base} has no {module}"
            raise UserError(
                f"{option}: {adapter} is not an adapter of this base: {there}, expected {tuple(wanted)}; give the "
                "base model that it was trained on"
            )
