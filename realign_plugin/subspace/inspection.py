"""What a mask keeps, module by module: numbers, a table, a picture."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from realign_plugin.plotting import pyplot_for, save_figure
from realign_plugin.subspace.effective import effective_tensor
from realign_plugin.subspace.lora_names import natural_key
from realign_plugin.subspace.spec import check_mask
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.terminal import new_console, print_table


@dataclass(frozen=True)
class ModuleRow:
    """One target module.

    Attributes:
        module: Full name.
        elements: Elements of A and B together, or of the weight.
        mean: Mean of sigmoid(logits) over them.
        kept: Share of them whose sigmoid(logit) is above one half.
        norm_before: Frobenius norm of the fused task vector on them, all elements kept.
        norm_after: The same after the mask, rescaled as in use.
    """

    module: str
    elements: int
    mean: float
    kept: float
    norm_before: float
    norm_after: float


def inspect_subspace(subspace: SafetySubspace, mask: str | None = None) -> list[ModuleRow]:
    """A row for each module.

    Args:
        subspace: The subspace.
        mask: Mask for the norm after masking; None takes its own.

    Raises:
        UserError: If the mask is unknown.
    """
    check_mask(mask or subspace.spec.mask, subspace.spec.mask_threshold)
    rows = []
    for module, logits in subspace.logits.items():
        size, mean, kept, before, after = 0, 0.0, 0.0, 0.0, 0.0
        vectors = subspace.stacked_deltas(module)
        for factor, deltas in vectors.items():
            name, alpha = f"{module}.{factor}", logits[factor]
            elements = deltas[0].numel()
            p = torch.sigmoid(alpha.double())
            size += elements
            mean += float(p.mean()) * elements
            kept += float((p >= 0.5).double().mean()) * elements
            whole = effective_tensor(subspace.spec, name, alpha, None, deltas, mask=torch.ones_like(alpha))
            left = effective_tensor(subspace.spec, name, alpha, None, deltas, mask=mask)
            before += float(whole.double().square().sum())
            after += float(left.double().square().sum())
        rows.append(ModuleRow(module, size, mean / size, kept / size, before**0.5, after**0.5))
    return sorted(rows, key=lambda row: natural_key(row.module))


def to_json(subspace: SafetySubspace, rows: list[ModuleRow]) -> str:
    """The rows and the subspace's description as JSON text."""
    return json.dumps({"spec": asdict(subspace.spec), "modules": [asdict(row) for row in rows]}, indent=2)


def print_inspection(subspace: SafetySubspace, rows: list[ModuleRow], mask: str | None) -> None:
    """Print where the subspace comes from, and the table."""
    spec = subspace.spec
    console = new_console()
    console.print(
        f"base {subspace.base_model or 'unknown'}; {spec.fusion_method}, weights {spec.task_weights}; "
        f"{spec.mask_granularity} masks, {spec.mask_estimator}; used as {mask or spec.mask}"
    )
    for source in spec.sources:
        console.print(f"  {source['role']}: {source['name']}, sha256 {source['sha256'][:12]}…")
    total = sum(row.elements for row in rows)
    whole = ModuleRow(
        f"all {len(rows)} modules",
        total,
        sum(r.mean * r.elements for r in rows) / total,
        sum(r.kept * r.elements for r in rows) / total,
        sum(r.norm_before**2 for r in rows) ** 0.5,
        sum(r.norm_after**2 for r in rows) ** 0.5,
    )
    columns = ("module", "elements", "mean mask", "kept", "‖δ‖ before", "‖δ‖ after")
    print_table(columns, map(_cells, rows), numbers=True, total=_cells(whole))


def _cells(row: ModuleRow) -> tuple[str, ...]:
    norms = f"{row.norm_before:.4g}", f"{row.norm_after:.4g}"
    return row.module, f"{row.elements:,}", f"{row.mean:.3f}", f"{row.kept:.1%}", *norms


def place(module: str) -> tuple[int, str]:
    """Layer number (-1 outside the layers) and the module's name within its layer."""
    match = re.search(r"\.(\d+)\.(.+)$", module)
    return (int(match[1]), match[2]) if match else (-1, module)


def draw_heat_map(rows: list[ModuleRow], path: Path) -> None:
    """Draw the share kept, layers by modules.

    Args:
        rows: Rows of ``inspect_subspace``.
        path: PNG to write.

    Raises:
        UserError: If matplotlib is missing, or the folder cannot be written.
    """
    plt = pyplot_for(path)
    layers = sorted({place(row.module)[0] for row in rows})
    names = list(dict.fromkeys(place(row.module)[1] for row in rows))
    grid = torch.full((len(layers), len(names)), float("nan"))
    for row in rows:
        layer, name = place(row.module)
        grid[layers.index(layer), names.index(name)] = row.kept
    figure, axes = plt.subplots(
        figsize=(2.2 + 0.8 * len(names), 1.8 + 0.32 * max(len(layers), 3)), layout="constrained"
    )
    low, high = float(grid[~grid.isnan()].min()), float(grid[~grid.isnan()].max())
    image: Any = axes.imshow(
        grid.numpy(), aspect="auto", cmap="viridis", vmin=max(0.0, low - 0.02), vmax=min(1.0, high + 0.02)
    )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(layers)), [str(n) if n >= 0 else "–" for n in layers], fontsize=8)
    axes.set(xlabel="module", ylabel="layer")
    axes.set_title("share of elements that the mask keeps", fontsize=10)
    figure.colorbar(image, ax=axes, format="{x:.0%}")
    save_figure(figure, path)
