"""Safe LoRA (arXiv 2405.16833) and SafeMERGE (arXiv 2503.17239): stock mergekit with this package's merge methods."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import bench_paths  # noqa: F401

from realign_plugin.subspace.lora_adapters import read_lora

Method = Literal["safe_lora", "safe_merge"]


def projected(method: Method, model: Path, aligned: Path, tuned: Path, threshold: float, out: Path) -> Path:
    """Write the merged model as a LoRA adapter, which it is exactly: its update has at most both adapters' rank.

    Args:
        method: The merge method.
        model: The model before alignment.
        aligned: Adapter of the aligned model, which is SafeMERGE's safe model too.
        tuned: Adapter of the fine-tuned model.
        threshold: Modules whose cosine with the alignment subspace is lower are changed.
        out: Folder to write.
    """
    from omegaconf import OmegaConf

    given = {
        "merge_method": method,
        "base_model": str(model),
        "models": [{"model": str(model)}],
        "parameters": {"aligned_adapter": str(aligned), "task_adapter": str(tuned), "threshold": threshold},
        "dtype": "float32",
    }
    out.mkdir(parents=True, exist_ok=True)
    file, merged = out / "merge.yaml", out / "merged"
    OmegaConf.save(OmegaConf.create(given), file)
    rank = sum(read_lora(path, str(path)).config.r for path in (aligned, tuned))
    run("run_yaml", str(file), str(merged), "--quiet")
    run(
        "extract_lora", "--model", str(merged), "--base-model", str(model), "--out-path", str(out),
        "--max-rank", str(rank), "--exclude-regex", "embed|lm_head|norm", "--quiet",
    )  # fmt: skip
    (merged / f"{method}_report.json").rename(out / f"{method}_report.json")
    shutil.rmtree(merged)
    return out


def run(script: str, *words: str) -> None:
    """One of mergekit's commands."""
    subprocess.run([sys.executable, "-m", f"mergekit.scripts.{script}", *words], check=True)
