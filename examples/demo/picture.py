"""Draws the demo's table: where each model lies on safety, over-refusal and skill.

python examples/demo/picture.py runs/demo-0/table.json docs/demo.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from realign_plugin.plotting import pyplot_for, save_figure

OURS: Final = ("aligned", "fine-tuned", "repaired")
COLOURS: Final = {"aligned": "#2f6f4f", "fine-tuned": "#b3372f", "repaired": "#1f5fa8"}
OTHERS: Final = "#777777"
ARROWS: Final = (("aligned", "fine-tuned"), ("fine-tuned", "repaired"))
SIDES: Final = {
    ("refusal_rate", "fine-tuned"): (1, -1), ("over_refusal", "fine-tuned"): (1, -1),
    ("refusal_rate", "repaired"): (-1, -1), ("over_refusal", "repaired"): (-1, 1),
    ("refusal_rate", "RESTA"): (1, 1), ("over_refusal", "RESTA"): (-1, 1),
    ("refusal_rate", "interpolation"): (-1, -1), ("over_refusal", "interpolation"): (-1, -1),
}  # fmt: skip
"""Where a name stands, if not right of its point and above it."""
AXES: Final = (
    ("refusal_rate", "harmful prompts refused"),
    ("over_refusal", "harmless prompts refused"),
)


def main(
    table: Annotated[Path, typer.Argument(help="The demo's table.json.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
) -> None:
    """Draw the picture."""
    rows: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))
    plt = pyplot_for(out)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharex=True, constrained_layout=True)
    for panel, (key, label) in zip(panels, AXES, strict=True):
        _panel(panel, rows, key, label)
    save_figure(figure, out)


def _panel(axes: Any, rows: list[dict[str, Any]], key: str, label: str) -> None:
    points = {row["model"]: (row["orders"]["value"], row[key]) for row in rows}
    target = points["aligned"][1]
    axes.axhline(target, color=COLOURS["aligned"], linewidth=1, linestyle=":")
    for start, end in ARROWS:
        axes.annotate(
            "", points[end], points[start],
            arrowprops={"arrowstyle": "->", "color": COLOURS[end], "shrinkA": 7, "shrinkB": 7, "linewidth": 1.6},
        )  # fmt: skip
    for row in rows:
        model, (x, y) = row["model"], points[row["model"]]
        colour = COLOURS.get(model, OTHERS)
        widths = [[x - row["orders"]["low"]], [row["orders"]["high"] - x]]
        axes.errorbar(
            x, y, xerr=widths, yerr=[[y - row[f"{key}_low"]], [row[f"{key}_high"] - y]], fmt="o", color=colour,
            ecolor=colour, elinewidth=0.8, alpha=1.0 if model in OURS else 0.7, markersize=7,
            markerfacecolor=colour if model in OURS else "white",
        )  # fmt: skip
        name = model.partition(" (")[0]
        across, up = SIDES.get((key, name), (1, 1))
        axes.annotate(
            name, (x, y), (8 * across, 7 if up > 0 else -14), textcoords="offset points", color=colour, fontsize=9,
            ha="left" if across > 0 else "right",
        )  # fmt: skip
    axes.set(xlim=(-0.05, 1.08), ylim=(-0.1, 1.05), xlabel="orders turned into the right JSON", ylabel=label)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    typer.run(main)
