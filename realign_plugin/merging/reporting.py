"""What a method did to each module, for the JSON file that it leaves next to the merged model."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realign_plugin.files import write_json
from realign_plugin.subspace.lora_names import natural_key


@dataclass(frozen=True)
class ModuleReport:
    """One module.

    Attributes:
        module: Full name.
        cosine: Cosine between its update and the projection on the alignment subspace; None without a subspace.
        threshold: Below it, the module was changed.
        changed: Whether it was.
        note: Why not, where no cosine could be computed.
    """

    module: str
    cosine: float | None
    threshold: float
    changed: bool
    note: str = ""


_rows: list[ModuleReport] = []
_lock = threading.Lock()


def add(row: ModuleReport) -> None:
    """Note one module; methods may run in several threads."""
    with _lock:
        _rows.append(row)


def clear() -> None:
    """Forget all modules when a merge starts."""
    with _lock:
        _rows.clear()


def write(folder: Path, method: str) -> str | None:
    """Write ``METHOD_report.json``.

    Args:
        folder: The merged model's folder.
        method: Name of the merge method.

    Returns:
        A line that sums it up, or None where the method notes nothing.
    """
    with _lock:
        rows = sorted(_rows, key=lambda row: natural_key(row.module))
    if not rows:
        return None
    changed = sum(row.changed for row in rows)
    summary: dict[str, Any] = {"method": method, "modules": len(rows), "changed": changed}
    write_json(folder / f"{method}_report.json", summary | {"rows": [asdict(row) for row in rows]})
    return f"{method}: {changed} of {len(rows)} modules changed; see {method}_report.json"
