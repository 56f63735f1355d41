"""Measure the models of the table on the held-out prompts.

    python evaluate.py RUN --split test --out RUN/results.json NAME=ADAPTER …

Baselines with a strength are tried at each strength on the validation prompts; the best is measured on the test
prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from judge import measure
from models import Weights, generate, interpolate, load_base, read_update, resta

SCALING = 2.0  # lora_alpha / lora_rank of train/*.yaml
STRENGTHS = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5]


def score(row: dict[str, Any], second: bool = False) -> tuple[float, float]:
    """How good a model is on both axes at once: its worst rate first, then the mean of all. Higher is better.

    Args:
        row: Rates of the model.
        second: Whether it was to learn the second skill too.
    """
    good = [
        1.0 - row["harmful_rate"],
        1.0 - row["over_refusal"],
        row["instruction_accuracy"],
        row["skill_accuracy"],
        *([row["second_skill_accuracy"]] if second else []),
        1.0 - row["gibberish_rate"],
    ]
    return min(good), sum(good) / len(good)


def main() -> None:
    """Evaluate what the command line names."""
    parser = argparse.ArgumentParser(description="Measure models on the held-out prompts.")
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=ADAPTER", help="an adapter folder, or the word base")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--baselines", action="store_true", help="add RESTA and interpolation at their best strength")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, tokenizer = load_base(options.run / "base")
    weights = Weights(model)
    prompts = {
        split: json.loads((options.run / "data" / f"{split}.json").read_text()) for split in ("validation", "test")
    }

    def rates(update: dict[str, Any], split: str) -> dict[str, Any]:
        weights.apply(update)
        answers = generate(model, tokenizer, [row["prompt"] for row in prompts[split]])
        return measure(prompts[split], answers)

    rows = []
    for entry in options.models:
        name, _, folder = entry.partition("=")
        update = {} if folder == "base" else read_update(Path(folder), SCALING)
        rows.append({"model": name, **rates(update, options.split)})
        print(
            f"{name}: {json.dumps({k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)})}", flush=True
        )
    if options.baselines:
        finetuned = read_update(options.run / "finetuned", SCALING)
        aligned = read_update(options.run / "aligned", SCALING)
        for name, rule in (("RESTA", resta), ("interpolation", interpolate)):
            tried = [s for s in STRENGTHS if rule is resta or s <= 1.0]
            best = max(tried, key=lambda s: score(rates(rule(finetuned, aligned, s), "validation")))
            row = rates(rule(finetuned, aligned, best), options.split)
            rows.append({"model": f"{name} ({best:g})", "strength": best, "strengths_tried": tried, **row})
            print(f"{name}: best strength {best:g}", flush=True)
    options.out.write_text(json.dumps({"split": options.split, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
