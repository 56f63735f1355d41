"""Measure the models of the table on the held-out prompts.

    python evaluate.py RUN --split test --out RUN/results.json NAME=ADAPTER …

Baselines with a strength are tried at each strength on the validation prompts; the best is measured on the test
prompts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch
from judge import measure
from models import Weights, generate, interpolate, load_base, read_update, resta

SCALING = 2.0  # lora_alpha / lora_rank of train/*.yaml
STRENGTHS = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5]
BASELINES = {"RESTA": resta, "interpolation": interpolate}

_bench: Bench


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


class Bench:
    """Measures adapters, and the baselines with a strength, on the held-out prompts of a run."""

    def __init__(self, run: Path) -> None:
        torch.set_num_threads(1)
        self.model, self.tokenizer = load_base(run / "base")
        self.weights = Weights(self.model)
        self.vectors = [read_update(run / name, SCALING) for name in ("finetuned", "aligned")]
        self.prompts = {
            split: json.loads((run / "data" / f"{split}.json").read_text(encoding="utf-8"))
            for split in ("validation", "test")
        }

    def measure(self, what: str, strength: float | None, split: str) -> dict[str, Any]:
        """Rates of one model: ``base``, an adapter's folder, or a baseline's name and its strength."""
        if strength is not None:
            update = BASELINES[what](*self.vectors, strength)
        else:
            update = {} if what == "base" else read_update(Path(what), SCALING)
        self.weights.apply(update)
        prompts = self.prompts[split]
        return measure(prompts, generate(self.model, self.tokenizer, [row["prompt"] for row in prompts]))


def _start(run: Path) -> None:
    global _bench
    _bench = Bench(run)


def _measure(job: tuple[str, float | None, str]) -> dict[str, Any]:
    return _bench.measure(*job)


def main() -> None:
    """Evaluate what the command line names, two models at a time."""
    parser = argparse.ArgumentParser(description="Measure models on the held-out prompts.")
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=ADAPTER", help="an adapter folder, or the word base")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--baselines", action="store_true", help="add RESTA and interpolation at their best strength")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    names, folders = zip(*(entry.split("=", 1) for entry in options.models), strict=True)
    tried = [(name, s) for name in BASELINES for s in STRENGTHS if name == "RESTA" or s <= 1.0]
    jobs = [(folder, None, options.split) for folder in folders]
    with multiprocessing.get_context("fork").Pool(2, _start, (options.run,)) as pool:
        rows = [
            {"model": name, **row} for name, row in zip(names, pool.imap(_measure, jobs, chunksize=1), strict=True)
        ]
        if options.baselines:
            found = pool.map(_measure, [(name, s, "validation") for name, s in tried], chunksize=1)
            scores = {key: score(row) for key, row in zip(tried, found, strict=True)}
            best = [max((key for key in tried if key[0] == name), key=scores.__getitem__) for name in BASELINES]
            measured = pool.map(_measure, [(name, s, options.split) for name, s in best], chunksize=1)
            for (name, s), row in zip(best, measured, strict=True):
                strengths = [other for key, other in tried if key == name]
                rows.append({"model": f"{name} ({s:g})", "strength": s, "strengths_tried": strengths, **row})
    options.out.write_text(json.dumps({"split": options.split, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
