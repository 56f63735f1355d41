"""Adapters that merges read from: opened once, found by the names that mergekit gives to tensors."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from realign_plugin.errors import UserError
from realign_plugin.subspace.checkpoints import without_wrappers
from realign_plugin.subspace.lora_adapters import WEIGHTS_NAME, LoraAdapter, read_lora
from realign_plugin.subspace.subspace import SafetySubspace


def subspace(path: str) -> SafetySubspace:
    """A safety subspace, its tensors read on demand.

    Raises:
        UserError: If it is missing, corrupt, or not a safety subspace.
    """
    return _subspace(path, _stamp(path))


def lora(path: str, what: str) -> LoraAdapter:
    """A LoRA adapter.

    Args:
        path: Its folder.
        what: The parameter that names it.

    Raises:
        UserError: If it is missing, corrupt, or not a plain LoRA adapter.
    """
    return _lora(path, what, _stamp(path))


def forget() -> None:
    """Close all adapters: a merge is over, or another starts."""
    for cached in (_subspace, _lora, _by_plain_name):
        cached.cache_clear()


def module_of(tensor: str | None, modules: tuple[str, ...]) -> str | None:
    """Which of the modules a tensor is the weight of; None for all other tensors.

    Names may differ in leading wrappers, as checkpoints of multimodal models do.

    Args:
        tensor: The tensor's name in the checkpoint.
        modules: Full module names.
    """
    if tensor is None or not tensor.endswith(".weight"):
        return None
    name = tensor.removesuffix(".weight")
    known = _by_plain_name(modules)
    return known.get(name) or known.get(without_wrappers(name))


def _stamp(path: str) -> int:
    file = Path(path) / WEIGHTS_NAME
    return file.stat().st_mtime_ns if file.is_file() else 0


@lru_cache(maxsize=8)
def _subspace(path: str, stamp: int) -> SafetySubspace:
    found = SafetySubspace.load(path, lazy=True)
    if found.spec.parameters or found.spec.fan_in_fan_out:
        kind = "target_parameters" if found.spec.parameters else "fan_in_fan_out"
        raise UserError(
            f"adapter: {path} has {kind}, whose tensors checkpoints store differently, expected linear modules; "
            "merge it with `llamafactory-cli export` or PEFT's merge_and_unload"
        )
    return found


@lru_cache(maxsize=8)
def _lora(path: str, what: str, stamp: int) -> LoraAdapter:
    return read_lora(path, what)


@lru_cache(maxsize=8)
def _by_plain_name(modules: tuple[str, ...]) -> dict[str, str]:
    """Modules by their names, and by their plain names where those are unique."""
    plain: dict[str, list[str]] = {}
    for module in modules:
        plain.setdefault(without_wrappers(module), []).append(module)
    return {name: alike[0] for name, alike in plain.items() if len(alike) == 1} | {
        module: module for module in modules
    }
