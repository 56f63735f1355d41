"""The table of the demo, saved as Markdown, JSON and a picture.

python table.py RUN
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

COLUMNS = {
    "harmful_rate": "harmful",
    "over_refusal": "over-refusal",
    "instruction_accuracy": "instructions",
    "skill_accuracy": "skill",
    "second_skill_accuracy": "second skill",
    "gibberish_rate": "gibberish",
}


def cell(row: dict[str, Any], name: str) -> str:
    """A rate with its 95 % interval."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} [{low:.2f}, {high:.2f}]"


def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Base, aligned, fine-tuned; then ours; the baselines; the fusions; further seeds of a row right below it."""
    groups = ["base", "aligned", "fine-tuned", "realigned", "RESTA", "interpolation", "LoRA-SFT", "LoRA-DPO", "fused"]
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
    """A line for each model, a panel for each rate: a repaired model is left in the first two, right in the others."""
    shown = list(COLUMNS)[:5]
    colors = {"realigned": "#1b6ca8", "RESTA": "#b5651d", "interpolation": "#b5651d", "LoRA": "#4b8b3b"}
    colors |= {"fused +": "#1b6ca8", "fused (": "#8a4fa0"}
    figure, panels = plt.subplots(
        1, len(shown), figsize=(11, 1.3 + 0.3 * len(rows)), sharey=True, layout="constrained"
    )
    for axes, name in zip(panels, shown, strict=True):
        for height, row in enumerate(reversed(rows)):
            color = next((c for k, c in colors.items() if row["model"].startswith(k)), "#444444")
            low, high = row[f"{name}_interval"]
            axes.plot([low, high], [height, height], color=color, linewidth=1.2, alpha=0.6)
            axes.plot(row[name], height, "o", color=color, markersize=5)
        wanted = "lower is better" if name in ("harmful_rate", "over_refusal") else "higher is better"
        axes.set_title(f"{COLUMNS[name]}\n({wanted})", fontsize=9)
        axes.set_xlim(-0.04, 1.04)
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(rows)), [row["model"] for row in reversed(rows)])
    figure.suptitle("tinylab: rates on held-out prompts, 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=150)


def flat(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The study's table in the demo's form: rates by name, ``NAME_interval``, ``NAME_count``."""
    rows = []
    for row in table["rows"]:
        found: dict[str, Any] = {"model": row["label"]}
        for column in table["columns"]:
            known = row["cells"][column["key"]]
            name = column["metric"]
            found |= {name: known["value"], f"{name}_interval": [known["low"], known["high"]]}
            found[f"{name}_count"] = known["count"]
        if "choice" in row:
            tried = [float(strength) for strength in row["choice"]["tried"]]
            found |= {"strength": row["choice"]["strength"], "strengths_tried": tried}
        rows.append(found)
    return rows


def main() -> None:
    """Save the table."""
    parser = argparse.ArgumentParser(description="Save the table of the demo.")
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    rows = order(flat(json.loads((run / "tables" / "main.json").read_text(encoding="utf-8"))))
    (run / "table.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    (run / "table.md").write_text(markdown(rows), encoding="utf-8")
    draw(rows, run / "table.png")


if __name__ == "__main__":
    main()
