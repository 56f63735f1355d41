"""The trained subspace on disk and in memory: how it is built, saved, loaded, exported and inspected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["SafetySubspace"]

if TYPE_CHECKING:
    from realign_plugin.subspace.subspace import SafetySubspace


def __getattr__(name: str) -> Any:
    """Import the class when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from realign_plugin.subspace.subspace import SafetySubspace

    return SafetySubspace
