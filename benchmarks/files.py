"""Saving and loading a safety subspace, against writing and reading its bytes with safetensors; and their number.

    python benchmarks/files.py [--hidden 1024] [--layers 8] [--rank 256] [--tasks 1] [--runs 7]

Alternating runs in one process; the floor writes the same tensors with ``safetensors.torch.save_file`` and syncs them
to the disk, as ours does, and reads them with ``load_file`` and touches every number once. Sizes are compared with
logits in fp32 plus aligned factors and task vectors in their own dtype.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Save and load times of a safety subspace.")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args()


def write_loras(folder: Path, chosen: argparse.Namespace) -> list[Path]:
    """An aligned adapter and the tasks' adapters, for q and v of every layer."""
    config = {
        "peft_type": "LORA",
        "r": chosen.rank,
        "lora_alpha": 2 * chosen.rank,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "none",
        "task_type": "CAUSAL_LM",
    }
    generator = torch.Generator().manual_seed(0)
    folders = []
    for name in ("aligned", *(f"task{n}" for n in range(chosen.tasks))):
        tensors = {}
        for layer in range(chosen.layers):
            for module in ("q_proj", "v_proj"):
                prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
                for factor, shape in (("A", (chosen.rank, chosen.hidden)), ("B", (chosen.hidden, chosen.rank))):
                    value = torch.randn(shape, generator=generator) * 0.01
                    tensors[f"{prefix}.lora_{factor}.weight"] = value.to(getattr(torch, chosen.dtype))
        (folder / name).mkdir()
        save_file(tensors, folder / name / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / name / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        folders.append(folder / name)
    return folders


def timed(action: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain_save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """The floor of saving: the bytes, on the disk."""
    save_file(tensors, path, metadata={"format": "pt"})
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def plain_load(path: Path) -> float:
    """The floor of loading: the bytes, each read."""
    return sum(float(tensor.sum()) for tensor in load_file(path).values())


def main() -> None:
    """Save and load in turn, and print medians and ratios."""
    chosen = options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        aligned, *tasks = write_loras(folder, chosen)
        subspace = SafetySubspace.from_adapters(aligned, tasks)
        saved = folder / "saved"
        subspace.save(saved)
        file = saved / "adapter_model.safetensors"
        tensors = load_file(file)
        times: dict[str, list[float]] = {"save": [], "plain_save": [], "load": [], "plain_load": []}
        for _ in range(chosen.runs):
            times["plain_save"].append(timed(lambda: plain_save(tensors, folder / "plain.safetensors")))
            times["save"].append(timed(lambda: subspace.save(saved)))
            times["plain_load"].append(timed(lambda: plain_load(file)))
            times["load"].append(timed(lambda: SafetySubspace.load(saved)))
        size = file.stat().st_size
        logits = sum(4 * t.numel() for key, t in tensors.items() if "logits" in key)
        vectors = sum(t.numel() * t.element_size() for key, t in tensors.items() if "logits" not in key)
    ratio = {
        kind: statistics.median(a / b for a, b in zip(times[kind], times[f"plain_{kind}"], strict=True))
        for kind in ("save", "load")
    }
    result = {key: getattr(chosen, key) for key in ("hidden", "layers", "rank", "tasks", "dtype", "runs")}
    result |= {"mib": round(size / 2**20, 1), "bytes_above_floor": size - logits - vectors}
    result |= {f"{kind}_ms": round(1000 * statistics.median(values)) for kind, values in times.items()}
    print(json.dumps({"files": result | {f"{kind}_of_plain": round(value, 3) for kind, value in ratio.items()}}))


if __name__ == "__main__":
    main()
