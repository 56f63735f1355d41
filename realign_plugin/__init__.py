"""Repairs the safety of a fine-tuned LLM: SOMF (arXiv 2405.09055) for stock LLaMA-Factory, PEFT, mergekit and lm-eval.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "SafetySubspace",
    "SafetySubspaceConfig",
    "SafetySubspaceModel",
    "UserError",
    "__version__",
    "attach_subspace",
]

_HOMES = {
    "SafetySubspace": "realign_plugin.subspace.subspace",
    "SafetySubspaceConfig": "realign_plugin.tuner",
    "SafetySubspaceModel": "realign_plugin.tuner",
    "attach_subspace": "realign_plugin.tuner",
    "UserError": "realign_plugin.errors",
}

if TYPE_CHECKING:
    from realign_plugin.errors import UserError
    from realign_plugin.subspace.subspace import SafetySubspace
    from realign_plugin.tuner import SafetySubspaceConfig, SafetySubspaceModel, attach_subspace


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
