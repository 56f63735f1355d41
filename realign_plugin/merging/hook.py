"""The hooks into mergekit: our methods in its registry, our checks and our writing around ``run_merge``."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def attach_registry(registry: ModuleType) -> None:
    """Register our merge methods."""
    from realign_plugin.merging.safe_lora import SafeLoraMerge
    from realign_plugin.merging.safe_merge import SafeMergeMerge
    from realign_plugin.merging.safety_subspace import SafetySubspaceMerge

    known = {method.spec.name for method in registry.registered_methods()}
    for method in (SafetySubspaceMerge(), SafeLoraMerge(), SafeMergeMerge()):
        if method.spec.name not in known:
            registry.register(method)


def attach_merge(merge: ModuleType) -> None:
    """Wrap ``run_merge``, which the commands import by name once this module is there."""
    original = merge.run_merge

    @functools.wraps(original)
    def run_merge(merge_config: Any, out_path: str, options: Any, config_source: str | None = None) -> Any:
        from realign_plugin.merging import run

        return run.run_merge(original, merge_config, out_path, options, config_source)

    merge.run_merge = run_merge  # type: ignore[attr-defined]
