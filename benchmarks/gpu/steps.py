"""What masks cost on a GPU: training steps, generation, the mask's kernels and merging, in one run.

    python benchmarks/gpu/steps.py [--seconds 240] [--out gpu.json] [--parts training,kernels,generation,merging]
    python benchmarks/gpu/steps.py --tiny          everything on a CPU, tiny

Models have the shapes of a 7B and of a 1B Llama and random weights in bf16, made on the GPU; no weight of theirs is
written to a file. Training goes through LLaMA-Factory's own trainer, one side after the other, with gradient
checkpointing; its baseline, LoRA-DPO, is measured first and last. Times are medians; memory is the most that PyTorch
had in use within the measured steps. The most telling cases come first, and what there is no time for is left out.

The JSON file is written again after each measurement. ``set_up.sh`` prepares a machine that has no network.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

if TYPE_CHECKING:
    import training
    from record import Record

PARTS = ("training", "kernels", "generation", "merging")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training, generation, kernels and merging on a GPU.")
    parser.add_argument("--seconds", type=float, default=240, help="start no measurement after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--steps", type=int, default=7, help="steps of an epoch, two of them to warm up")
    parser.add_argument("--cases", default="", help="cases of training whose names hold this text alone")
    parser.add_argument("--sides", default="", help="these sides of training alone; lora_dpo is the baseline")
    parser.add_argument("--profile", action="store_true", help="GPU's share of a step; may slow the others down")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in tiny")
    return parser.parse_args()


def main() -> None:
    """Measure in order of what tells most, and print a table."""
    chosen = options()
    if chosen.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import transformers

    if not chosen.tiny and not torch.cuda.is_available():
        raise SystemExit("steps: PyTorch finds no GPU here, expected one; --tiny runs on the CPU")
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    from record import Record, table

    if chosen.tiny:
        torch.set_num_threads(1)
    device = torch.device("cpu" if chosen.tiny else "cuda:0")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(chosen).items()}
    record = Record(chosen.out, chosen.seconds, device, settings)
    with tempfile.TemporaryDirectory() as name:
        for step in plan(chosen, record, Path(name)):
            step()
    print(table(record.content))


def plan(chosen: argparse.Namespace, record: Record, folder: Path) -> list[Callable[[], None]]:
    """What is measured, in order."""
    import generating
    import kernels
    import merging
    import training

    parts = chosen.parts.split(",")
    short = 0.5 if chosen.tiny else 2.0

    def trained(cases: tuple[training.Case, ...]) -> list[Callable[[], None]]:
        wanted = [case for case in cases if chosen.cases in case.name and "training" in parts]
        if chosen.sides:
            wanted = [replace(case, sides=tuple(chosen.sides.split(","))) for case in wanted]
        return [partial(training.run_case, record, case, folder, chosen.steps, chosen.profile) for case in wanted]

    others = {
        "kernels": lambda: kernels.measure(record, chosen.tiny, short),
        "merging": lambda: merging.measure(record, folder, chosen.tiny, short),
        "generation": lambda: generating.measure(record, folder, chosen.tiny, 2 * short),
    }
    found = trained(training.TINY if chosen.tiny else training.FIRST)
    found += [others[name] for name in ("kernels", "merging") if name in parts]
    found += [] if chosen.tiny else trained(training.SECOND)
    found += [others["generation"]] if "generation" in parts else []
    return found + ([] if chosen.tiny else trained(training.REST))


if __name__ == "__main__":
    main()
