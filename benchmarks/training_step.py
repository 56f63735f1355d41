"""A training step of masked DPO against LoRA-DPO, in LLaMA-Factory's own trainer and in a bare loop.

    python benchmarks/training_step.py [--tokens 512] [--rank 256] [--hidden 1024] [--layers 2] [--pairs 4] [--runs 3]

Each side runs in a process of its own, one after the other in turn, on the same random Llama, adapters and pairs. In
LLaMA-Factory's trainer:

* ``lora_dpo``: stock ``stage: dpo`` with LoRA, from the fine-tuned adapter; its reference is the base model;
* ``mask_dpo``: ``stage: mask_dpo`` on one task; ``mask_dpo_4``: on four, fused by task arithmetic;
* ``compiled``: ``mask_dpo`` with ``mask_compile: true``;
* ``remembered``: the same steps as ``mask_dpo`` once the reference's log probabilities are known (the second epoch);
* ``distill``: ``stage: safety_distill`` by masks on the same rows, chosen answers as safety prompts', rejected ones as
  the skill's; ``distill_lora``: of a LoRA adapter; ``distill_remembered``: once the teachers are known;
  ``distill_whole``: all rows of a step in one pass, as on a GPU, also where ``--shorter`` makes half of them shorter.

In a bare loop (bare_loop.py): ``bare_lora``, ``bare_mask``, and ``published``, the way of the research code, written
again.

Figures: median CPU seconds of a step, as ratios to the LoRA side of the same kind and turn. Memory is measured in runs
of its own, in which glibc gives freed memory back at once: the peak of anonymous memory beyond that of the LoRA side,
in MiB and in copies of one adapter in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from random_llama import write_adapters, write_pairs, write_tokenizer

DISTILLED = ("distill", "distill_lora", "distill_remembered", "distill_whole")
THROUGH_LLAMAFACTORY = ("lora_dpo", "mask_dpo", "mask_dpo_4", "compiled", "remembered", *DISTILLED)
BARE = ("bare_lora", "bare_mask", "published")
SIDES = (*THROUGH_LLAMAFACTORY, *BARE)
WORDS = 500
MEMORY = "REALIGN_BENCH_MEMORY"
"""Set where a process is to follow its memory, which takes time."""
WARM_UP = 2


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training steps of masked DPO and LoRA-DPO.")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--shorter", type=int, default=0, help="by how many tokens the rejected answers are shorter")
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4, help="pairs a step")
    parser.add_argument("--steps", type=int, default=6, help=f"of a training; the first {WARM_UP} are not timed")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--target", default="q_proj,v_proj")
    parser.add_argument("--vocabulary", type=int, default=0, help="of the model; default: the tokenizer's")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--sides", default=",".join(side for side in SIDES if side != "distill_whole"))
    parser.add_argument("--side", choices=SIDES, help="internal: run this side and print its figures")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.steps <= WARM_UP:
        parser.error(f"--steps: {chosen.steps}, expected at least {WARM_UP + 1}: the first {WARM_UP} are not timed")
    return chosen


def make(chosen: argparse.Namespace, folder: Path) -> None:
    """A random Llama, an aligned adapter, four fine-tuned ones, and pairs of one length."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=max(write_tokenizer(folder / "base", WORDS), chosen.vocabulary),
        hidden_size=chosen.hidden,
        intermediate_size=int(2.75 * chosen.hidden),
        num_hidden_layers=chosen.layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    lora = LoraConfig(
        r=chosen.rank, lora_alpha=2 * chosen.rank, target_modules=chosen.target.split(","), task_type="CAUSAL_LM"
    )
    write_adapters(get_peft_model(model, lora), folder, ["aligned", "task1", "task2", "task3", "task4"])
    write_pairs(folder, chosen.tokens, chosen.pairs * chosen.steps, words=WORDS, shorter=chosen.shorter)
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    columns = info["pairs"]["columns"]
    for name, answer in (("safety", "chosen"), ("skill", "rejected")):
        names = {"prompt": columns["prompt"], "response": columns[answer]}
        info[name] = {"file_name": info["pairs"]["file_name"], "columns": names}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


class Memory(threading.Thread):
    """Follows this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        """Look every two milliseconds."""
        while True:
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1024)
            time.sleep(0.002)


def through_llamafactory(chosen: argparse.Namespace, side: str) -> list[float]:
    """CPU seconds of each step of LLaMA-Factory's trainer."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    folder, times = chosen.folder, []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes the CPU time of each step, optimiser included."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time() - self.start)

    epochs = 2 if side.endswith("remembered") else 1
    arguments: dict[str, Any] = {
        "model_name_or_path": str(folder / "base"),
        "do_train": True,
        "dataset": "pairs",
        "dataset_dir": str(folder),
        "cutoff_len": chosen.tokens + 8,
        "output_dir": str(folder / f"out-{side}"),
        "overwrite_output_dir": True,
        "per_device_train_batch_size": chosen.pairs,
        "max_steps": chosen.steps * epochs,
        "learning_rate": 1e-3,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "pref_beta": 0.1,
        "disable_gradient_checkpointing": not chosen.checkpointing,
    }
    if side == "lora_dpo":
        arguments |= {"stage": "dpo", "finetuning_type": "lora", "adapter_name_or_path": str(folder / "task1")}
    else:
        count = 4 if side == "mask_dpo_4" else 1
        tasks = [str(folder / f"task{n + 1}") for n in range(count)]
        arguments |= {"stage": "mask_dpo", "finetuning_type": "safety_subspace", "task_adapters": tasks}
        arguments |= {"aligned_adapter": str(folder / "aligned")}
        arguments |= {"mask_compile": True} if side == "compiled" else {}
    if side in DISTILLED:
        arguments |= {"stage": "safety_distill", "dataset": "safety,skill", "skill_dataset": "skill"}
        arguments |= {"finetuning_type": "lora" if side == "distill_lora" else "safety_subspace"}
        arguments |= {"per_device_train_batch_size": 2 * chosen.pairs}
    if side == "distill_whole":
        from realign_plugin.training import distill_trainer

        distill_trainer.PASS_TOKENS = 10**9  # no second pass is worth its cost
    run_exp(arguments, callbacks=[Clock()])
    return times[chosen.steps :] if epochs == 2 else times


def one_side(chosen: argparse.Namespace) -> None:
    """Run one side and print its figures."""
    memory = Memory()
    if MEMORY in os.environ:
        memory.start()
    if chosen.side in BARE:
        import bare_loop

        sides = {"bare_lora": bare_loop.lora, "bare_mask": bare_loop.masked, "published": bare_loop.published}
        times = sides[chosen.side](chosen)
    else:
        times = through_llamafactory(chosen, chosen.side)
    print("FIGURES" + json.dumps({"seconds": statistics.median(times[WARM_UP:]), "peak": memory.peak}))


def measure(chosen: argparse.Namespace, folder: Path, side: str, memory: bool = False) -> dict[str, float]:
    """A side in a process of its own.

    Args:
        chosen: The command line.
        folder: What ``make`` made.
        side: The side.
        memory: Whether the allocator gives back what is freed, so that the peak is what was in use.
    """
    words = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    if memory:
        environment |= {
            MEMORY: "1",
            "MALLOC_MMAP_THRESHOLD_": str(64 * 1024),
            "MALLOC_TRIM_THRESHOLD_": str(64 * 1024),
        }
    found = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    line = next((part for part in found.stdout.splitlines() if part.startswith("FIGURES")), None)
    if line is None:
        raise SystemExit(f"{side} failed:\n{found.stderr[-2000:]}")
    return json.loads(line.removeprefix("FIGURES"))  # type: ignore[no-any-return]


def main() -> None:
    """Run all sides in turn, several times, and print the medians and ratios."""
    chosen = options()
    if chosen.side:
        one_side(chosen)
        return
    sides = chosen.sides.split(",")
    if chosen.checkpointing and not set(sides).isdisjoint(BARE):
        raise SystemExit("--checkpointing: the bare loops have none; name the other sides with --sides")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(chosen, folder)
        adapter = (folder / "task1" / "adapter_model.safetensors").stat().st_size / 2**20
        turns = [{side: measure(chosen, folder, side) for side in sides} for _ in range(chosen.runs)]
        peaks = {side: measure(chosen, folder, side, memory=True)["peak"] for side in sides}
    result: dict[str, Any] = {
        name: getattr(chosen, name)
        for name in ("tokens", "shorter", "rank", "hidden", "layers", "pairs", "target", "vocabulary", "checkpointing")
    }
    result |= {"adapter_mib": round(adapter, 1), "runs": chosen.runs}
    for side in sides:
        plain = "bare_lora" if side in BARE else "lora_dpo"
        seconds = statistics.median(turn[side]["seconds"] for turn in turns)
        result[side] = {"cpu_s": round(seconds, 3)}
        if plain in sides:
            ratio = statistics.median(turn[side]["seconds"] / turn[plain]["seconds"] for turn in turns)
            extra = peaks[side] - peaks[plain]
            result[side] |= {"ratio": round(ratio, 3), "mib_more": round(extra)}
            result[side] |= {"adapters_more": round(extra / adapter, 2)}
    print(json.dumps({"training_step": result}))


if __name__ == "__main__":
    main()
