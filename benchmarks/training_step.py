"""A training step of masked DPO against stock LoRA-DPO, in LLaMA-Factory's own trainer, and the published way.

    python benchmarks/training_step.py [--tokens 512] [--rank 256] [--hidden 1024] [--layers 2] [--pairs 4] [--runs 3]

Each side runs in a process of its own, one after the other in turn, on the same random Llama, adapters and pairs:

* ``lora_dpo``: stock ``stage: dpo`` with LoRA, from the fine-tuned adapter; its reference is the base model;
* ``mask_dpo``: ``stage: mask_dpo`` on one task; ``mask_dpo_4``: on four, fused by task arithmetic;
* ``remembered``: the same steps as ``mask_dpo`` once the reference's log probabilities are known (the second epoch);
* ``published``: what the research code does, written anew: RelaxedBernoulli builds the masked adapter from the task
  vector, which is swapped in at every forward, and a second model is the reference.

Figures: median CPU seconds of a step, as ratios to ``lora_dpo`` of the same turn, and the peak of anonymous memory in
MiB beyond ``lora_dpo``, also in copies of one adapter in fp32.
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

SIDES = ("lora_dpo", "mask_dpo", "mask_dpo_4", "remembered", "published")
WORDS = 500
WARM_UP = 2


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Training steps of masked DPO and LoRA-DPO.")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4, help="pairs a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--target", default="q_proj,v_proj")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--side", choices=SIDES, help="internal: run this side and print its figures")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def make(chosen: argparse.Namespace, folder: Path) -> None:
    """A random Llama, an aligned adapter, four fine-tuned ones, and pairs of one length."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder / "base", WORDS),
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
    write_pairs(folder, chosen.tokens, chosen.pairs * chosen.steps, words=WORDS)


class Memory(threading.Thread):
    """Follows this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        """Look twenty times a second."""
        while True:
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1024)
            time.sleep(0.05)


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

    epochs = 2 if side == "remembered" else 1
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
    run_exp(arguments, callbacks=[Clock()])
    return times[chosen.steps :] if side == "remembered" else times


def published(chosen: argparse.Namespace) -> list[float]:
    """CPU seconds of each step of the published way: masked state dicts, swapped at every forward; a second model."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from torch.distributions import RelaxedBernoulli
    from torch.func import functional_call
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = chosen.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    policy, reference = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "task1")
        for _ in range(2)
    )
    names = {
        key: key.replace(".weight", ".default.weight")
        for key in load_file(folder / "aligned/adapter_model.safetensors")
    }
    aligned, tuned = (
        {names[k]: v for k, v in load_file(folder / part / "adapter_model.safetensors").items()}
        for part in ("aligned", "task1")
    )
    vectors = {key: tuned[key] - aligned[key] for key in aligned}
    logits = {key: torch.zeros_like(value, requires_grad=True) for key, value in vectors.items()}
    optimizer = torch.optim.AdamW(logits.values(), lr=1e-3)
    temperature = torch.tensor(0.5)

    def masked() -> dict[str, torch.Tensor]:
        found = {}
        for key, alpha in logits.items():
            mask = RelaxedBernoulli(temperature, logits=alpha).rsample()
            found[key] = aligned[key] + vectors[key] * mask / mask.mean()
        return found

    def log_probs(model: Any, tokens: torch.Tensor, prompt: int, state: dict[str, torch.Tensor]) -> torch.Tensor:
        output = functional_call(model, state, (), {"input_ids": tokens}).logits[:, prompt - 1 : -1]
        return output.log_softmax(-1).gather(-1, tokens[:, prompt:, None]).squeeze(-1).sum(-1)

    rows, times = json.loads((folder / "pairs.json").read_text(encoding="utf-8")), []
    for number in range(chosen.steps):
        part = rows[number * chosen.pairs : (number + 1) * chosen.pairs]
        texts = [
            f"<user> {row['instruction']} <assistant> {row[kind]} <eos>"
            for kind in ("chosen", "rejected")
            for row in part
        ]
        tokens = tokenizer(texts, return_tensors="pt")["input_ids"]
        prompt = len(part[0]["instruction"].split()) + 2
        start = time.process_time()
        with torch.no_grad():
            expected = log_probs(reference, tokens, prompt, masked())
        gains = (log_probs(policy, tokens, prompt, masked()) - expected).chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (gains[0] - gains[1])).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    return times


def one_side(chosen: argparse.Namespace) -> None:
    """Run one side and print its figures."""
    memory = Memory()
    memory.start()
    times = published(chosen) if chosen.side == "published" else through_llamafactory(chosen, chosen.side)
    print("FIGURES" + json.dumps({"seconds": statistics.median(times[WARM_UP:]), "peak": memory.peak}))


def measure(chosen: argparse.Namespace, folder: Path, side: str) -> dict[str, float]:
    """A side in a process of its own."""
    words = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(chosen, folder)
        adapter = (folder / "task1" / "adapter_model.safetensors").stat().st_size / 2**20
        turns = [{side: measure(chosen, folder, side) for side in sides} for _ in range(chosen.runs)]
    result: dict[str, Any] = {
        name: getattr(chosen, name)
        for name in ("tokens", "rank", "hidden", "layers", "pairs", "target", "checkpointing")
    }
    result |= {"adapter_mib": round(adapter, 1), "runs": chosen.runs}
    for side in sides:
        ratio = statistics.median(turn[side]["seconds"] / turn["lora_dpo"]["seconds"] for turn in turns)
        extra = statistics.median(turn[side]["peak"] - turn["lora_dpo"]["peak"] for turn in turns)
        seconds = statistics.median(turn[side]["seconds"] for turn in turns)
        result[side] = {"cpu_s": round(seconds, 3), "of_lora_dpo": round(ratio, 3)}
        result[side] |= {"mib_more": round(extra), "adapters_more": round(extra / adapter, 2)}
    print(json.dumps({"training_step": result}))


if __name__ == "__main__":
    main()
