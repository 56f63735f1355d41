"""Merges of our method against mergekit's own, three models of 250 M parameters in bf16, all in one run.

python benchmarks/merge.py [RUNS [HIDDEN LAYERS]]

Each merge is a process of its own. Its CPU seconds are those beyond importing mergekit alone; its memory is the peak
of RssAnon, which leaves out mapped files. Methods take turns; medians of the runs, and of the ratios within each turn.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORT = "from mergekit.scripts.run_yaml import main"
RUN = IMPORT + "; import sys; main(sys.argv[1:])"


def models(folder: Path, hidden: int, layers: int) -> None:
    """A base, two fine-tuned copies and two LoRA adapters; then subspaces of both spaces, task arithmetic and TIES."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from realign_plugin import SafetySubspace

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16000,
        hidden_size=hidden,
        intermediate_size=int(2.75 * hidden),
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for number in (1, 2):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + (0.02 * torch.randn(start[name].shape)).to(torch.bfloat16))
        model.save_pretrained(folder / f"full{number}")
        lora = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=64, lora_alpha=64, target_modules="all-linear"))
        with torch.no_grad():
            for name, parameter in lora.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.02)
        lora.to(torch.bfloat16).save_pretrained(folder / f"lora{number}")
    for fusion in ("task_arithmetic", "ties"):
        adapters = [folder / "lora1", folder / "lora2"]
        thin = SafetySubspace.from_adapters(None, adapters, fusion_method=fusion)
        full = SafetySubspace.from_models(folder / "base", [folder / "full1", folder / "full2"], fusion_method=fusion)
        for name, subspace in ((f"lora_{fusion}", thin), (f"weight_{fusion}", full)):
            for pair in subspace.logits.values():
                for logits in pair.values():
                    logits.normal_()
            subspace.save(folder / name)


def configurations(folder: Path) -> dict[str, Path]:
    """A YAML file for each side."""
    full = "".join(f"  - model: {folder}/full{n}\n    parameters: {{weight: 0.4, density: 0.2}}\n" for n in (1, 2))
    texts = {}
    for method in ("task_arithmetic", "ties"):
        texts[method] = f"merge_method: {method}\nbase_model: {folder}/base\nmodels:\n{full}dtype: bfloat16\n"
        texts[f"safety_subspace lora {method}"] = (
            f"merge_method: safety_subspace\nbase_model: {folder}/base\nmodels:\n  - model: {folder}/base\n"
            f"parameters: {{adapter: {folder}/lora_{method}, mask: binary}}\n"
        )
        texts[f"safety_subspace weight {method}"] = (
            f"merge_method: safety_subspace\nbase_model: {folder}/base\nmodels:\n  - model: {folder}/full1\n"
            f"  - model: {folder}/full2\nparameters: {{adapter: {folder}/weight_{method}, mask: binary}}\n"
        )
    files = {}
    for name, text in texts.items():
        files[name] = folder / f"{name.replace(' ', '-')}.yaml"
        files[name].write_text(text)
    return files


def measure(code: str, *words: str) -> tuple[float, float, float]:
    """CPU seconds, peak RssAnon in MiB, and wall seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(x.split()[1]) / 1024 for x in status.splitlines() if x.startswith("RssAnon"))])
        except OSError:
            break
        time.sleep(0.01)
    wall = time.perf_counter() - started
    error = process.stderr.read().decode() if process.stderr else ""
    if process.wait() != 0:
        raise SystemExit(error[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak, wall


def main() -> None:
    """Make the models, merge in turns, print figures and ratios."""
    runs, hidden, layers = (int(x) for x in (*sys.argv[1:4], *("3", "1024", "16")[len(sys.argv[1:4]) :]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models(folder, hidden, layers)
        files = configurations(folder)
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
        for _ in range(runs):
            idle, _, _ = measure(IMPORT)
            for name, file in files.items():
                cpu, memory, _ = measure(RUN, str(file), str(folder / "out"))
                turns[name].append((cpu - idle, memory))
    figures = {
        name: {
            "cpu_s": round(statistics.median(c for c, _ in t), 2),
            "anon_mib": round(statistics.median(m for _, m in t)),
        }
        for name, t in turns.items()
    }
    ratios = {}
    for name, t in turns.items():
        stock = turns["ties" if name.endswith("ties") else "task_arithmetic"]
        if name.startswith("safety_subspace"):
            ratios[name] = {
                "cpu": round(statistics.median(a[0] / b[0] for a, b in zip(t, stock, strict=True)), 3),
                "anon": round(statistics.median(a[1] / b[1] for a, b in zip(t, stock, strict=True)), 3),
            }
    print(
        json.dumps(
            {"merge": {"runs": runs, "hidden": hidden, "layers": layers, "figures": figures, "ratios": ratios}},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
