"""What `realign estimate` says against what LLaMA-Factory's own trainer takes: peak memory and files, fp32, on a CPU.

    python benchmarks/estimate.py [--sizes 256,512,1024] [--cases mask,mask_ties,rows,…] [--allocator]

Random Llamas of several sizes, adapters and pairs of unequal length, with and without gradient checkpointing. Each run
is a process of its own. It first trains a toy model, which loads all that the host imports on its way; its anonymous
memory is then the baseline (weights, which are mapped from their file, are copied, so that they count). The peak is
looked for from the second step on, every two milliseconds. The allocator gives freed memory back at once
(MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_); with --allocator the runs are repeated as glibc is by itself.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from random_llama import write_adapters, write_pairs, write_tokenizer

SIZES = {  # hidden: layers, tokens, pairs a batch, rank
    256: (8, 512, 2, 64),
    512: (4, 384, 2, 128),
    1024: (3, 256, 2, 256),
}
CASES = ("mask", "mask_ties", "rows", "elements", "lora_dpo", "evaluation", "autocast")
WORDS = 4000
STEPS = 3
MIB = 2**20


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Estimates against measurements.")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--allocator", action="store_true", help="also with glibc's allocator as it is by itself")
    parser.add_argument("--run", type=Path, help="internal: train with these options and print the peak")
    return parser.parse_args()


def make(folder: Path, hidden: int, layers: int, tokens: int, rank: int) -> None:
    """A random Llama, a fine-tuned copy, an aligned adapter and two fine-tuned ones, and pairs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder / "base", WORDS), hidden_size=hidden, intermediate_size=int(2.75 * hidden),
        num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        before = {name: p.clone() for name, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
        model.save_pretrained(folder / "tuned")
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    write_adapters(get_peft_model(model, lora), folder, ["aligned", "task1", "task2"])
    # Chosen rows are as long as cutoff_len allows, rejected ones are padded.
    write_pairs(folder, tokens, 4 * STEPS, words=WORDS, shorter=8)


def training(folder: Path, out: Path, case: str, tokens: int, pairs: int, checkpointing: bool) -> dict[str, Any]:
    """The options of a run, as a YAML file would give them."""
    common: dict[str, Any] = {
        "model_name_or_path": str(folder / "base"), "do_train": True, "dataset": "pairs", "dataset_dir": str(folder),
        "cutoff_len": tokens, "output_dir": str(out), "per_device_train_batch_size": pairs, "max_steps": STEPS,
        "learning_rate": 1e-3, "logging_steps": 1000, "save_steps": STEPS, "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "pref_beta": 0.1, "disable_gradient_checkpointing": not checkpointing,
    }  # fmt: skip
    masked = {"stage": "mask_dpo", "finetuning_type": "safety_subspace"}
    adapters = {"aligned_adapter": str(folder / "aligned"), "task_adapters": [str(folder / "task1")]}
    match case:
        case "mask":
            return common | masked | adapters
        case "mask_ties":
            both = [str(folder / "task1"), str(folder / "task2")]
            return common | masked | adapters | {"task_adapters": both, "fusion_method": "ties"}
        case "evaluation":  # of batches so large that its peak is the run's
            split = {"val_size": 6, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 6}
            return common | masked | adapters | split
        case "autocast":
            return common | masked | adapters | {"bf16": True}
        case "rows":
            return common | masked | {"task_models": [str(folder / "tuned")]}
        case "elements":
            return common | masked | {"task_models": [str(folder / "tuned")], "mask_granularity": "element"}
        case "lora_dpo":
            return common | {
                "stage": "dpo", "finetuning_type": "lora", "adapter_name_or_path": str(folder / "task1")
            }  # fmt: skip
    raise SystemExit(f"unknown case {case}")


def anonymous() -> int:
    """RssAnon of this process, bytes, as far as resident and shared pages tell it quickly."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


class Peak(threading.Thread):
    """Looks at memory every two milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Go on until the process ends."""
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.002)


def tidy() -> int:
    """Anonymous memory when all that is free has been given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return anonymous()


def run(chosen: dict[str, Any], toy: dict[str, Any]) -> None:
    """Train with a toy model, then with these options, and print the peak."""
    import torch
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    run_exp(toy)
    baseline, peak = tidy(), Peak()

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Copies the mapped weights, and forgets the first step, before which the optimiser has no states."""

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
            tidy()
            peak.start()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == 1:
                peak.most = 0
            if state.global_step == STEPS:  # before a checkpoint is written
                print("PEAK" + json.dumps(peak.most - baseline), flush=True)

    run_exp(chosen, callbacks=[Watch()])


def measured(chosen: dict[str, Any], toy: dict[str, Any], plain: bool) -> int:
    """The peak of one run, bytes."""
    file = Path(chosen["output_dir"] + ".json")
    file.write_text(json.dumps([chosen, toy]), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    if not plain:
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024)}
    found = subprocess.run(
        [sys.executable, __file__, "--run", str(file)], capture_output=True, text=True, env=environment, check=False
    )
    line = next((part for part in found.stdout.splitlines() if part.startswith("PEAK")), None)
    if line is None or found.returncode:
        raise SystemExit(f"{chosen['output_dir']} failed:\n{found.stdout[-1000:]}\n{found.stderr[-2000:]}")
    return int(json.loads(line.removeprefix("PEAK")))


def files(trained: Any, out: Path, root: Path) -> dict[str, tuple[int, int]]:
    """Sizes as they were told and as they are: checkpoint, result, exported adapter, merged model."""
    from realign_plugin import SafetySubspace
    from realign_plugin.lab.estimate import disk

    def total(folder: Path) -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    checkpoint = out / f"checkpoint-{STEPS}"
    found = {
        "adapter_model.safetensors": (
            disk.adapter_bytes(trained), (checkpoint / "adapter_model.safetensors").stat().st_size
        ),
        "optimizer.pt": (disk.optimiser_bytes(trained), (checkpoint / "optimizer.pt").stat().st_size),
        "checkpoint": (disk.checkpoint_bytes(trained), total(checkpoint)),
        "folder": (disk.folder_bytes(trained), total(out)),
        "model.safetensors": (
            disk.model_bytes(trained), (Path(trained.model.name) / "model.safetensors").stat().st_size
        ),
    }  # fmt: skip
    exported = disk.export_bytes(trained)
    if trained.kind == "mask" and exported is not None:
        SafetySubspace.load(out).to_lora(root / "lora")
        found["exported LoRA"] = (exported, (root / "lora" / "adapter_model.safetensors").stat().st_size)
    return found


def main() -> None:
    """Compare all sizes and cases."""
    chosen = options()
    if chosen.run:
        run(*json.loads(chosen.run.read_text(encoding="utf-8")))
        return
    import transformers

    from realign_plugin.lab.estimate.memory import alone
    from realign_plugin.lab.estimate.training import read_training

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root / "toy", 32, 2, 32, 4)
        worst = far = 0.0
        for hidden in map(int, chosen.sizes.split(",")):
            layers, tokens, pairs, rank = SIZES[hidden]
            folder = root / str(hidden)
            make(folder, hidden, layers, tokens, rank)
            for case in chosen.cases.split(","):
                for checkpointing in (True, False):
                    out = root / f"out-{hidden}-{case}-{checkpointing}"
                    asked = training(folder, out, case, tokens, pairs, checkpointing)
                    toy = training(root / "toy", root / "toy-out", case, 32, 1, checkpointing) | {
                        "save_strategy": "no", "overwrite_output_dir": True
                    }  # fmt: skip
                    said = sum(alone(read_training(case, asked)).parts.values())
                    took = measured(asked, toy, False)
                    row: dict[str, Any] = {
                        "hidden": hidden, "case": case, "checkpointing": checkpointing,
                        "estimate_mib": round(said / MIB, 1), "measured_mib": round(took / MIB, 1),
                        "ratio": round(said / took, 3),
                    }  # fmt: skip
                    if chosen.allocator:
                        row["glibc_mib"] = round(measured(asked | {"output_dir": f"{out}-glibc"}, toy, True) / MIB, 1)
                    worst = max(worst, abs(said / took - 1))
                    print(json.dumps(row), flush=True)
                for name, (bytes_said, bytes_found) in files(read_training(case, asked), out, root).items():
                    far = max(far, abs(bytes_said / bytes_found - 1) * (abs(bytes_said - bytes_found) > 65536))
                    sizes = {"estimate": bytes_said, "found": bytes_found}
                    print(json.dumps({"hidden": hidden, "case": case, "file": name} | sizes), flush=True)
        shares = {"worst_share_off": round(worst, 3), "worst_file_beyond_64_kib": round(far, 4)}
        print(json.dumps({"estimate": shares}))


if __name__ == "__main__":
    main()
