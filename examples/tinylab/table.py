"""The table of the demo: printed, and saved as Markdown, JSON and a picture.

python table.py RESULTS.json OUT
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "harmful_rate": "harmful",
    "over_refusal": "over-refusal",
    "instruction_accuracy": "instructions",
    "skill_accuracy": "skill",
    "gibberish_rate": "gibberish",
}


def cell(row: dict[str, Any], name: str) -> str:
    """A rate with its 95 % interval."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} [{low:.2f}, {high:.2f}]"


def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Base, aligned, fine-tuned; then ours; then the rivals; further seeds of a row right below it."""
    groups = ["base", "aligned", "fine-tuned", "realigned", "RESTA", "interpolation", "LoRA-SFT", "LoRA-DPO"]
    names = [re.sub(r", seed \d+$", "", row["model"]) for row in rows]
    first = {name: names.index(name) for name in names}

    def key(index: int) -> tuple[int, int, int]:
        name = names[index]
        return next(i for i, group in enumerate(groups) if name.startswith(group)), first[name], index

    return [rows[i] for i in sorted(range(len(rows)), key=key)]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = ["| model | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row['model']} | " + " | ".join(cell(row, name) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Harmful rate against skill: the repaired models sit at the top left."""
    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    styles = {"realigned": ("o", "#1b6ca8"), "RESTA": ("^", "#b5651d"), "interpolation": ("v", "#b5651d")}
    placed: list[tuple[float, float]] = []
    for row in rows:
        kind = next((k for k in styles if row["model"].startswith(k)), "")
        marker, color = styles.get(kind, ("s", "#4b8b3b") if row["model"].startswith("LoRA") else ("D", "#444444"))
        x, y = row["harmful_rate"], row["skill_accuracy"]
        low, high = row["harmful_rate_interval"]
        axes.errorbar(
            x,
            y,
            xerr=[[max(0.0, x - low)], [max(0.0, high - x)]],
            fmt=marker,
            color=color,
            alpha=0.85,
            capsize=2,
            elinewidth=0.8,
        )
        if "seed" in row["model"]:
            continue
        crowd = sum(abs(x - px) < 0.16 and abs(y - py) < 0.12 for px, py in placed)
        placed.append((x, y))
        axes.annotate(
            row["model"],
            (x, y),
            xytext=(10 if x < 0.6 else -10, -14 * crowd - 12),
            textcoords="offset points",
            ha="left" if x < 0.6 else "right",
            fontsize=8,
            color=color,
        )
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.06, 1.06), xlabel="harmful rate (lower is safer)", ylabel="skill accuracy")
    axes.set_title("tinylab: safety and skill on held-out prompts, 95 % intervals", fontsize=10)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print and save the table."""
    parser = argparse.ArgumentParser(description="Print and save the table of the demo.")
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = order(json.loads(options.results.read_text(encoding="utf-8"))["rows"])
    (options.out / "table.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(markdown(rows), encoding="utf-8")
    draw(rows, options.out / "table.png")
    table = Table("model", *COLUMNS.values(), title="tinylab, held-out prompts, 95 % intervals")
    for row in rows:
        table.add_row(row["model"], *(cell(row, name) for name in COLUMNS))
    console = Console(width=None if Console().is_terminal else 130)
    console.print(table)
    console.print(f"Saved as {options.out}/table.md, table.json and table.png.")


if __name__ == "__main__":
    main()
