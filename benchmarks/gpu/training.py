"""Training steps in LLaMA-Factory's own trainer: masked DPO and self-distillation over LoRA-DPO."""

from __future__ import annotations

import io
import json
import os
import statistics
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_llama import write_pairs
from record import Record, gib, wait
from shapes import SHAPES, WORDS, built_from_config, write_adapters, write_base

WARM_UP = 2
SIDES = ("lora_dpo", "mask_dpo", "mask_dpo_compiled", "distill", "distill_lora", "lora_dpo_again")
"""The baseline frames the others: its drift is how far the rest can be trusted."""
REMEMBERING = ("mask_dpo", "mask_dpo_compiled", "distill", "distill_lora")
"""Sides that run a second epoch, in which the reference or the teachers are known."""


class MeasuredError(Exception):
    """All steps are done; what would follow, saving above all, is not measured."""


@dataclass(frozen=True)
class Case:
    """What all sides of one comparison share."""

    shape: str
    rank: int
    target: str
    tokens: int
    pairs: int
    sides: tuple[str, ...] = SIDES
    pure: bool = False
    checkpointing: bool = True

    @property
    def name(self) -> str:
        """As it is shown."""
        dtype = " pure_bf16" if self.pure else ""
        kept = "" if self.checkpointing else " without checkpointing"
        return f"{self.shape} r{self.rank} {self.target}, {self.pairs} pairs of 2 x {self.tokens}{dtype}{kept}"


FIRST = (Case("7B", 16, "all", 1024, 2), Case("1B", 16, "all", 1024, 4))
SECOND = (Case("1B", 256, "all", 1024, 4),)
REST = (
    Case("7B", 16, "qv", 1024, 2),
    Case("7B", 256, "qv", 1024, 2),
    Case("7B", 16, "all", 2048, 1),
    Case("1B", 16, "all", 1024, 4, pure=True),
    Case("1B", 256, "qv", 1024, 4),
    Case("1B", 256, "all", 2048, 2),
    Case("1B", 16, "qv", 2048, 2),
    Case("7B", 256, "all", 1024, 2),
)
TINY = (Case("tiny", 4, "all", 48, 2), Case("tiny", 8, "qv", 32, 2, checkpointing=False))


def run_case(record: Record, case: Case, folder: Path, steps: int, profile: bool) -> None:
    """Measure all sides of a case, each as long as there is time.

    Args:
        record: Where figures go.
        case: The case.
        folder: For models, adapters and data.
        steps: Steps of an epoch, ``WARM_UP`` included.
        profile: Whether to say of the last step of the warm-up how long the GPU was busy, and with how many kernels.
    """
    if record.left() < 0:
        record.content["skipped"].append(case.name)
        return
    shape = SHAPES[case.shape]
    base = write_base(shape, folder / shape.name)
    adapters = write_adapters(shape, case.rank, case.target, base, folder, record.device)
    data = folder / f"data-{case.tokens}-{case.pairs * steps}"
    write_data(data, case.tokens, case.pairs * steps)
    found: dict[str, dict[str, Any]] = {}
    for side in case.sides:

        def run(side: str = side) -> dict[str, Any]:
            figures = one_side(record.device, case, side, base, adapters, data, folder / "out", steps, profile)
            found[side] = figures
            compare(figures, found.get("lora_dpo"))
            return figures

        record.measure(case.name, side, run)


def compare(figures: dict[str, Any], plain: dict[str, Any] | None) -> None:
    """Add ratios to LoRA-DPO's step, and GiB more than its peak."""
    if plain is None or plain is figures:
        return
    for kind in ("", "remembered_"):
        if f"{kind}step_ms" in figures:
            figures[f"{kind}ratio"] = round(figures[f"{kind}step_ms"] / plain["step_ms"], 3)
            figures[f"{kind}gib_more"] = round(figures[f"{kind}peak_gib"] - plain["peak_gib"], 3)


def write_data(folder: Path, tokens: int, count: int) -> None:
    """Pairs of one length, and the same rows as safety prompts and prompts of a skill."""
    folder.mkdir(exist_ok=True)
    write_pairs(folder, tokens, count, words=WORDS)
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text(encoding="utf-8"))
    columns = info["pairs"]["columns"]
    for name, answer in (("safety", "chosen"), ("skill", "rejected")):
        names = {"prompt": columns["prompt"], "response": columns[answer]}
        info[name] = {"file_name": info["pairs"]["file_name"], "columns": names}
    file.write_text(json.dumps(info), encoding="utf-8")


def arguments(
    device: torch.device, case: Case, side: str, base: Path, adapters: dict[str, Path], data: Path, out: Path
) -> dict[str, Any]:
    """LLaMA-Factory's options of one side, without the number of steps."""
    found: dict[str, Any] = {
        "model_name_or_path": str(base),
        "do_train": True,
        "dataset": "pairs",
        "dataset_dir": str(data),
        "cutoff_len": case.tokens + 8,
        "output_dir": str(out),
        "overwrite_output_dir": True,
        "per_device_train_batch_size": case.pairs,
        "learning_rate": 1e-3,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "pure_bf16" if case.pure else "bf16": True,
        "pref_beta": 0.1,
        "disable_gradient_checkpointing": not case.checkpointing,
    }
    if side.startswith("lora_dpo"):
        return found | {
            "stage": "dpo",
            "finetuning_type": "lora",
            "adapter_name_or_path": str(adapters["task"]),
        }
    found |= {"task_adapters": [str(adapters["task"])], "aligned_adapter": str(adapters["aligned"])}
    if side.startswith("mask_dpo"):
        return found | {
            "stage": "mask_dpo",
            "finetuning_type": "safety_subspace",
            "learning_rate": 1.0,
            "mask_compile": side == "mask_dpo_compiled",
        }
    return found | {
        "stage": "safety_distill",
        "dataset": "safety,skill",
        "skill_dataset": "skill",
        "finetuning_type": "lora" if side == "distill_lora" else "safety_subspace",
        "learning_rate": 1e-3 if side == "distill_lora" else 1.0,
        "per_device_train_batch_size": 2 * case.pairs,
    }


def one_side(
    device: torch.device,
    case: Case,
    side: str,
    base: Path,
    adapters: dict[str, Path],
    data: Path,
    out: Path,
    steps: int,
    profile: bool,
) -> dict[str, Any]:
    """Median step time and peak memory of one side; those of its second epoch as ``remembered_``."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    epochs = 2 if side in REMEMBERING else 1
    times: list[float] = []
    peaks: list[float] = []
    resident: list[float] = []
    busy: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes the time of each step, optimiser included, and the most memory in use in it."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if profile and len(times) == WARM_UP - 1:
                kinds = torch.profiler.ProfilerActivity
                self.profiler = torch.profiler.profile(activities=[kinds.CUDA if device.type == "cuda" else kinds.CPU])
                self.profiler.start()
            wait(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                resident.append(torch.cuda.memory_allocated(device))
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            times.append(time.perf_counter() - self.start)
            if profile and len(times) == WARM_UP:
                self.profiler.stop()
                events = self.profiler.key_averages()
                busy["gpu_busy_ms"] = round(sum(event.self_device_time_total for event in events) / 1e3, 1)
                busy["gpu_kernels"] = sum(event.count for event in events if event.self_device_time_total > 0)
            peaks.append(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0.0)
            if len(times) == steps * epochs:
                raise MeasuredError

    chosen = arguments(device, case, side, base, adapters, data, out) | {"max_steps": steps * epochs}
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # an earlier run's
    torch._dynamo.reset()  # other shapes and dtypes than an earlier run's would count as compiled anew too often
    started = time.perf_counter()
    try:
        with built_from_config(device), redirect_stdout(io.StringIO()):
            run_exp(chosen, callbacks=[Clock()])
    except MeasuredError:
        pass
    spent = time.perf_counter() - started - sum(times)
    figures = phase("", times[WARM_UP:steps], peaks[WARM_UP:steps])
    figures["tokens_per_s"] = round(2000 * case.pairs * case.tokens / figures["step_ms"])
    if epochs == 2:
        figures |= phase("remembered_", times[steps + 1 :], peaks[steps + 1 :])
    if resident:
        figures["resident_gib"] = gib(resident[0])
    return figures | busy | {"first_step_s": round(times[0], 2), "start_s": round(spent, 1)}


def phase(kind: str, times: list[float], peaks: list[float]) -> dict[str, Any]:
    """Figures of some steps."""
    return {
        f"{kind}step_ms": round(1e3 * statistics.median(times), 2),
        f"{kind}fastest_ms": round(1e3 * min(times), 2),
        f"{kind}peak_gib": gib(max(peaks)),
    }
