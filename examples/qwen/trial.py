"""Breaks a real model's refusals by harmless fine-tuning, repairs them, and compares it with other repairs.

    python examples/models/get.py qwen2.5-coder-0.5b-instruct models/qwen
    python examples/qwen/trial.py models/qwen DATA runs/qwen --seeds 0,1

DATA holds public data sets: ``preference/pku_saferlhf_pairs_5k.json``, ``safety_eval/*.json`` (five sets of harmful
prompts), ``over_refusal/xstest_prompts.csv``, ``downstream/{gsm8k_train_2k,gsm8k_test}.jsonl`` and
``downstream/alpaca_en_demo.json``. The model is fine-tuned on 320 rows of GSM8K and 320 of Alpaca (stock SFT, LoRA
r 16 on all linear layers, 5e-4, one epoch), then, for each seed:

* ``repaired``: ``realign repair`` on 700 of PKU's prompts and our own borderline ones;
* ``masks``, ``lora``: the two that it chooses from, at strength 1;
* ``mask_dpo``, ``mask_dpo_paper``, ``lora_dpo``: on the on-policy pairs and contrast pairs of the skill; ``lora_sft``:
  on the aligned model's answers and the skill's; all with as many steps and rows a step.

Measured on 200 harmful prompts (40 of each set), all 250 safe prompts of XSTest and 200 rows of GSM8K's test; none
of them was used. What is done is not done again.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

ROWS = 8
SEEDS = "0,1"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "mask_dpo": {
        "stage": "mask_dpo", "finetuning_type": "safety_subspace", "mask_estimator": "straight_through",
        "mask_noise_end": 0.0, "learning_rate": 0.1,
    },
    "mask_dpo_paper": {"stage": "mask_dpo", "finetuning_type": "safety_subspace", "learning_rate": 0.1},
    "lora_dpo": {"stage": "dpo", "finetuning_type": "lora", "pref_beta": 0.1, "learning_rate": 1e-4},
    "lora_sft": {"stage": "sft", "finetuning_type": "lora", "learning_rate": 2e-4},
}  # fmt: skip
FINE_TUNING: Mapping[str, Any] = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 16, "lora_target": "all", "dataset": "skill",
    "learning_rate": 5e-4, "num_train_epochs": 1.0,
}  # fmt: skip
OURS = ("mask_dpo", "safety_distill")


def prompts(data: Path, out: Path) -> dict[str, Path]:
    """Write the prompts and rows of the trial; returns the files by name."""
    rng = random.Random(0)
    pairs = json.loads((data / "preference/pku_saferlhf_pairs_5k.json").read_text(encoding="utf-8"))
    harmful = list(dict.fromkeys(row["prompt"] for row in pairs))
    rng.shuffle(harmful)
    test = []
    for file in sorted((data / "safety_eval").glob("*.json")):
        given = [row["prompt"] for row in json.loads(file.read_text(encoding="utf-8"))]
        own = [prompt for prompt in given if prompt not in set(harmful)]
        rng.shuffle(own)
        test += own[:40]
    with open(data / "over_refusal/xstest_prompts.csv", encoding="utf-8") as stream:
        safe = [row["prompt"] for row in csv.DictReader(stream) if row.get("label", "safe") == "safe"]
    train, held = (
        [json.loads(line) for line in (data / f"downstream/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("gsm8k_train_2k", "gsm8k_test")
    )
    alpaca = json.loads((data / "downstream/alpaca_en_demo.json").read_text(encoding="utf-8"))
    rng.shuffle(alpaca)
    general = [row for row in alpaca if 0 < len(row["output"]) < 700][:320]
    skill = [{"instruction": row["question"], "output": row["answer"]} for row in train[:320]]
    skill += [{key: row[key] for key in ("instruction", "input", "output")} for row in general]
    rng.shuffle(skill)
    rows: dict[str, list[Any]] = {
        "harmful": [{"prompt": prompt} for prompt in harmful[:700]],
        "test": [{"prompt": prompt} for prompt in test],
        "test_benign": [{"prompt": prompt} for prompt in safe],
        "skill": skill,
        "test_skill": [{"instruction": row["question"], "output": row["answer"]} for row in held[:200]],
    }
    files = {}
    for name, kept in rows.items():
        files[name] = out / "data" / f"{name}.json"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    info = {"skill": {"file_name": "skill.json"}}
    (out / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return files


def train(out: Path, options: Mapping[str, Any]) -> Path:
    """One training by the stock command; returns its folder."""
    folder = out / str(options["output_dir"])
    done = folder / "done.json"
    if not done.exists():
        file = write_options(out, options)
        start = time.monotonic()
        run(["llamafactory.cli", "train", str(file)], out / f"{folder.name}.log")
        done.write_text(json.dumps({"seconds": time.monotonic() - start}), encoding="utf-8")
    return folder


def write_options(out: Path, options: Mapping[str, Any]) -> Path:
    """The YAML file of a training, next to its folder ``output_dir`` within ``out``."""
    import torch
    from omegaconf import OmegaConf

    from realign_plugin.lab.repair.training import half_precision

    folder = out / str(options["output_dir"])
    given: dict[str, Any] = {
        "do_train": True, "cutoff_len": 512, "per_device_train_batch_size": ROWS, "lr_scheduler_type": "cosine",
        "logging_steps": 5, "save_strategy": "no", "report_to": "none",
        "preprocessing_num_workers": 1, "overwrite_output_dir": True,
    }  # fmt: skip
    model = str(options["model_name_or_path"])
    given |= {"bf16": half_precision(model)} | ({"template": name} if (name := template(model)) else {})
    # Plain attention is faster on a CPU, since rows are short here. On an H200, gradients of padded rows were NaN
    # with torch 2.11's cuDNN attention.
    given |= {"flash_attn": "disabled"} | ({} if torch.cuda.is_available() else {"use_cpu": True})
    given |= dict(options) | {"output_dir": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.yaml"
    OmegaConf.save(OmegaConf.create(given), file)
    return file


@cache
def template(model: str) -> str | None:
    """LLaMA-Factory's name of a model's chat template."""
    from realign_plugin.training.template_choice import template_of

    return template_of(model)


def run(command: Sequence[str], log: Path) -> None:
    """A Python module's command line, with its output in a file."""
    with open(log, "w", encoding="utf-8") as stream:
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=stream, stderr=subprocess.STDOUT)


def fine_tune(model: Path, out: Path) -> Path:
    """The fine-tuning that wears the refusals away."""
    folders = {"dataset_dir": str(out / "data"), "output_dir": "fine-tuned"}
    return train(out, {"model_name_or_path": str(model), **FINE_TUNING, **folders, "seed": 0})


def repair(model: Path, out: Path, files: Mapping[str, Path], seed: int, budget: str) -> Path:
    """``realign repair``; returns its folder."""
    folder = out / f"repaired-{seed}"
    if not (folder / "before_after.json").exists():
        words = ["realign_plugin.cli", "repair", str(model), str(out / "fine-tuned"), "--out", str(folder)]
        options = {"prompts": "harmful", "skill": "skill", "test": "test"}
        options |= {"test-benign": "test_benign", "test-skill": "test_skill"}
        for option, name in options.items():
            words += [f"--{option}", str(files[name])]
        run([*words, "--seed", str(seed), "--budget", budget], out / f"repaired-{seed}.log")
    return folder


def pairs(repaired: Path, skill: Path, seed: int) -> Path:
    """The folder of a repair's data sets, with contrast pairs of the skill."""
    from realign_plugin.data import kinds
    from realign_plugin.data.recipe import Request

    data = repaired / "work" / "data"
    if not (data / "contrast_skill.jsonl").exists():
        request = Request(data, "contrast_skill", limit=240, seed=seed, overwrite=True)
        kinds.contrast(request, source=str(skill))
    return data


def public_pairs(folder: Path, data: Path, out: Path, seed: int) -> Path:
    """Add 240 pairs of PKU's own answers to prompts of the trial to a folder of data sets."""
    from realign_plugin.data import kinds
    from realign_plugin.data.recipe import Request

    if not (folder / "pku_pairs.jsonl").exists():
        used = {row["prompt"] for row in json.loads((out / "data" / "harmful.json").read_text(encoding="utf-8"))}
        pairs = json.loads((data / "preference/pku_saferlhf_pairs_5k.json").read_text(encoding="utf-8"))
        file = out / "data" / "pku.json"
        file.write_text(json.dumps([row for row in pairs if row["prompt"] in used]), encoding="utf-8")
        kinds.preference(Request(folder, "pku_pairs", limit=240, seed=seed, overwrite=True), source=str(file))
    return folder


def other(model: Path, out: Path, name: str, seed: int, steps: int) -> Path:
    """Another repair, on the on-policy data of ``realign repair``; returns a plain LoRA adapter."""
    from realign_plugin.subspace.subspace import SafetySubspace

    data = pairs(out / f"repaired-{seed}", out / "data" / "skill.json", seed)
    options = dict(METHODS[name])
    paired = options["stage"] != "sft"
    options |= {
        "model_name_or_path": str(model), "dataset_dir": str(data), "seed": seed, "max_steps": steps,
        "dataset": "repair_pairs,contrast_skill" if paired else "repair,repair_skill",
        "per_device_train_batch_size": ROWS // 2 if paired else ROWS, "output_dir": f"{name}-{seed}",
    }  # fmt: skip
    masked = options["stage"] in OURS
    options |= {"task_adapters" if masked else "adapter_name_or_path": [str(out / "fine-tuned")]}
    folder = train(out, options)
    if not masked:
        return folder
    exported = out / f"{name}-{seed}-lora"
    return exported if exported.exists() else SafetySubspace.load(folder).to_lora(exported)


def main(
    model: Annotated[Path, typer.Argument(help="The aligned model's folder.")],
    data: Annotated[Path, typer.Argument(help="Folder of the public data sets.")],
    out: Annotated[Path, typer.Argument(help="Where to write.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the repairs, with commas.")] = SEEDS,
    budget: Annotated[str, typer.Option(help="Of realign repair.")] = "standard",
    methods: Annotated[str, typer.Option(help="Other repairs, with commas.")] = ",".join(METHODS),
) -> None:
    """Run the trial and print its table."""
    from realign_plugin.lab.repair.plan import BUDGETS

    files = prompts(data, out)
    fine_tune(model, out)
    adapters: dict[str, Path | None] = {"aligned": None, "fine-tuned": out / "fine-tuned"}
    for seed in map(int, seeds.split(",")):
        folder = repair(model, out, files, seed, budget)
        adapters[f"repaired, {seed}"] = folder
        adapters[f"masks, {seed}"] = folder / "work" / "models" / "masks-lora"
        adapters[f"lora, {seed}"] = folder / "work" / "models" / "lora"
        for name in filter(None, methods.split(",")):
            adapters[f"{name}, {seed}"] = other(model, out, name, seed, BUDGETS[budget].steps)
    from measure import table

    table(model, out, files, adapters)


if __name__ == "__main__":
    typer.run(main)
