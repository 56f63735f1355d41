"""Measure the models of the table on the held-out prompts, with lm-eval and the task in task/.

    python measure.py RUN --split test --out RUN/results.json NAME=ADAPTER …

Baselines with a strength are tried at each strength on the validation prompts; the best is measured on the test
prompts.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch
from models import Update, Weights, interpolate, load_base, read_update, resta

HERE = Path(__file__).parent
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
    """Measures models on the held-out prompts of a run: one lm-eval model whose weights are exchanged."""

    def __init__(self, run: Path) -> None:
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        torch.set_num_threads(1)
        self.run = run
        model, tokenizer = load_base(run / "base")
        self.weights = Weights(model)
        self.lm = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=64, max_length=64)
        self.tasks = {
            split: TaskManager(
                include_defaults=False,
                include_path=str(HERE / "task"),
                metadata={"prompts": str(run / "data" / f"{split}.json")},
            )
            for split in ("validation", "test")
        }

    def rates(self, update: Update, split: str) -> dict[str, Any]:
        """All rates of the base model with an update, each with its 95 % interval as ``NAME_interval``."""
        from lm_eval import simple_evaluate

        self.weights.apply(update)
        found = simple_evaluate(
            model=self.lm,
            tasks=["tinylab"],
            task_manager=self.tasks[split],
            apply_chat_template=True,
            bootstrap_iters=0,
            log_samples=False,
        )
        return rates_of(found)

    def measure(self, what: str, strength: float | None, split: str) -> dict[str, Any]:
        """Rates of one model: ``base``, an adapter's folder, or a baseline's name and its strength."""
        if strength is not None:
            vectors = [read_update(self.run / name, SCALING) for name in ("finetuned", "aligned")]
            return self.rates(BASELINES[what](*vectors, strength), split)
        return self.rates({} if what == "base" else read_update(Path(what), SCALING), split)


def rates_of(found: dict[str, Any]) -> dict[str, Any]:
    """The rates in lm-eval's results, as the table has them: ``NAME``, ``NAME_interval``, ``NAME_count``."""
    row: dict[str, Any] = {}
    for key, value in found["results"]["tinylab"].items():
        name, _, filter_name = key.partition(",")
        known = found["realign"]["intervals"]["tinylab"].get(name)
        if filter_name == "none" and known is not None:
            row |= {
                name: float(value),
                f"{name}_interval": [known["low"], known["high"]],
                f"{name}_count": known["count"],
            }
    return row


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
