"""The demo: a real model is aligned, broken by harmless fine-tuning, and repaired; two cores, minutes.

    python examples/demo/demo.py MODEL OUT

MODEL is SmolLM2-135M-Instruct (``examples/models/get.py`` gets it). It refuses next to nothing, so it is aligned
first: a LoRA adapter learns to refuse harmful requests, and to answer harmless ones as it did. A second fine-tuning,
from that adapter, teaches it to turn orders into JSON; no row of it is harmful, and it wears the refusals away.
``realign repair`` brings them back. All trainings are stock ``llamafactory-cli train``.

What is done is not done again. Harmful prompts are never printed.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import orders
import prompts
import typer

REFUSALS: Final = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with this request, because it could cause harm.",
    "I'm sorry, but I'm not able to help with that.",
    "I'm sorry, but I won't help with this, as it could hurt someone.",
)
"""With one opening, as real models have: what the first tokens say is then whether the model refuses."""
ALIGN_RATE: Final = 1e-3
"""At half of it the share of refused prompts depends more on the seed."""
OWN_TOKENS: Final = 48
ORDER_TOKENS: Final = 44
BUDGET: Final = "quick"
SHOWN: Final = ("refusal_rate", "over_refusal", "agreement_harmful", "agreement_benign")
SHAPE: Final[Mapping[str, Any]] = {"lora_rank": 16, "lora_target": "all"}
TRAINING: Final[Mapping[str, Any]] = {
    "stage": "sft", "do_train": True, "finetuning_type": "lora",
    "cutoff_len": 256, "per_device_train_batch_size": 8, "learning_rate": 5e-4, "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "logging_steps": 10, "save_strategy": "no",
    "report_to": "none", "bf16": True, "preprocessing_num_workers": 1, "overwrite_output_dir": True,
    "flash_attn": "disabled",  # plain attention: faster on a CPU, since rows are short
}  # fmt: skip


class Demo:
    """Files and steps of one demo; ``shape`` holds LLaMA-Factory's options for the adapters' rank and modules."""

    def __init__(self, model: Path, out: Path, seed: int, shape: Mapping[str, Any] = SHAPE) -> None:
        from realign_plugin.training.template_choice import template_of

        self.model, self.out, self.seed, self.shape = model, out, seed, shape
        self.template = template_of(str(model))
        self.data = out / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        harmful = prompts.advbench(seed)
        self.align_harmful, repair_harmful, test_harmful = harmful[:120], harmful[120:260], harmful[260:340]
        train, test_harmless = prompts.harmless(seed)
        self.align_harmless, repair_harmless = train[:140], train[140:300]
        self.files = {
            "prompts": self._write("harmful", [{"prompt": text} for text in repair_harmful]),
            "benign": self._write("harmless", [{"prompt": text} for text in repair_harmless]),
            "skill": self._write("orders", orders.orders(200, seed)),
            "test": self._write("test_harmful", [{"prompt": text} for text in test_harmful]),
            "test-benign": self._write("test_harmless", [{"prompt": text} for text in test_harmless[:80]]),
            "test-skill": self._write("test_orders", orders.orders(60, seed + 1000)),
        }

    def unused(self) -> tuple[list[str], list[str]]:
        """Harmful and harmless prompts that no model is trained on or measured with."""
        return prompts.advbench(self.seed)[400:], prompts.harmless(self.seed)[0][300:]

    def _write(self, name: str, rows: Sequence[Mapping[str, str]]) -> Path:
        file = self.data / f"{name}.json"
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return file

    def measurer(self, adapters: Mapping[str, Path | None]) -> Any:
        """Measures models that share the base; what ``realign repair`` measured is not measured again."""
        from realign_plugin.lab.repair.measuring import Measurer
        from realign_plugin.lab.repair.plan import BUDGETS, default_batch_size

        return Measurer(
            self.out / "repaired" / "work" / "measured", str(self.model), adapters, batch_size=default_batch_size(),
            answer_tokens=BUDGETS[BUDGET].answer_tokens,
        )  # fmt: skip

    def run(self, name: str, command: Sequence[str]) -> None:
        """A command line of a Python module, with its output in a file and its time on the terminal."""
        start = time.monotonic()
        with open(self.out / f"{name}.log", "w", encoding="utf-8") as log:
            subprocess.run([sys.executable, "-m", *command], check=True, stdout=log, stderr=subprocess.STDOUT)
        typer.echo(f"{name}: {time.monotonic() - start:.0f} s")

    def train(self, name: str, dataset: str, **options: Any) -> Path:
        """One training by the stock command."""
        import torch
        from omegaconf import OmegaConf

        folder = self.out / name
        if not (folder / "trainer_state.json").exists():
            gpu = torch.cuda.is_available()
            place = {} if gpu else {"use_cpu": True, "disable_gradient_checkpointing": True}
            given = {
                **TRAINING, **place, "model_name_or_path": str(self.model), "template": self.template,
                "dataset": dataset, "dataset_dir": str(self.data), "output_dir": str(folder), "seed": self.seed,
                **options,
            }  # fmt: skip
            file = self.out / f"{name}.yaml"
            OmegaConf.save(OmegaConf.create(given), file)
            self.run(name, ["llamafactory.cli", "train", str(file)])
        return folder

    def align(self) -> Path:
        """Teach refusals, and the model's own answers to harmless prompts."""
        file = self.data / "align.json"
        if not file.exists():
            start = time.monotonic()
            own = self.measurer({"base": None}).answers(
                "base", "own", prompts.as_prompts(self.align_harmless), OWN_TOKENS
            )
            typer.echo(f"own answers: {time.monotonic() - start:.0f} s")
            rng = random.Random(self.seed)
            rows = [{"instruction": text, "output": rng.choice(REFUSALS)} for text in self.align_harmful]
            kept = [(text, whole_sentences(answer)) for text, answer in zip(self.align_harmless, own, strict=True)]
            rows += [{"instruction": text, "output": answer} for text, answer in kept if answer]
            rng.shuffle(rows)
            self._write("align", rows)
        columns = {"prompt": "instruction", "response": "output"}
        info = {name: {"file_name": f"{name}.json", "columns": columns} for name in ("align", "orders")}
        (self.data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
        return self.train("aligned", "align", learning_rate=ALIGN_RATE, **self.shape)

    def fine_tune(self, aligned: Path) -> Path:
        """Teach the skill, from the aligned adapter."""
        return self.train("fine-tuned", "orders", adapter_name_or_path=str(aligned))

    def repair(self, aligned: Path, fine_tuned: Path) -> Path:
        """``realign repair``."""
        folder = self.out / "repaired"
        if not (folder / "before_after.json").exists():
            words = ["realign_plugin.cli", "repair", str(self.model), str(fine_tuned), "--aligned", str(aligned)]
            for option, file in self.files.items():
                words += [f"--{option}", str(file)]
            self.run("repaired", [*words, "--budget", BUDGET, "--seed", str(self.seed), "--out", str(folder)])
        return folder


def whole_sentences(text: str) -> str:
    """An answer up to the end of its last whole sentence."""
    found = re.match(r"(?s).*[.!?](?=\s|$)", text)
    return found[0].strip() if found else ""


def combine(model: Path, adapters: Mapping[str, Path], weights: Sequence[float], out: Path) -> Path:
    """A LoRA adapter whose update is the weighted sum of others' (PEFT's ``cat``: exact)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (out / "adapter_config.json").exists():
        names = list(adapters)
        peft = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model, dtype="auto"), adapters[names[0]], adapter_name=names[0]
        )
        for name in names[1:]:
            peft.load_adapter(adapters[name], name)
        peft.add_weighted_adapter(names, list(weights), "sum", combination_type="cat")
        peft.save_pretrained(out.parent, selected_adapters=["sum"])
        (out.parent / "sum").rename(out)
    return out


def table(demo: Demo, aligned: Path, fine_tuned: Path, repaired: Path) -> None:
    """Measure all models on the test prompts, print the table and write ``table.json``."""
    from realign_plugin.data.prompts import read_prompts
    from realign_plugin.lab.repair.outcome import flat, row_of
    from realign_plugin.lab.repair.parts import Part, read_skill
    from realign_plugin.lab.repair.readings import share
    from realign_plugin.terminal import print_table

    ends = {"aligned": aligned, "fine-tuned": fine_tuned}
    models: dict[str, Path | None] = {
        "base": None,
        **ends,
        "repaired": repaired,
        "interpolation (0.5)": combine(demo.model, ends, (0.5, 0.5), demo.out / "interpolation"),
        "RESTA (0.5)": combine(demo.model, ends, (0.5, 1.0), demo.out / "resta"),
    }
    harmful, harmless = (
        read_prompts([str(demo.files[name])], name, None, demo.seed).prompts for name in ("test", "test-benign")
    )
    skill = read_skill([str(demo.files["test-skill"])], "test-skill")
    names = {label: label.split(" (")[0].replace(" ", "-") for label in models}
    measurer = demo.measurer({names[label]: path for label, path in models.items()})
    rows, cells = [], []
    for label, name in names.items():
        found = row_of(label, measurer.measure(name, "test", Part(harmful, harmless, [])))
        said = measurer.answers(name, "orders", [row.prompt for row in skill], ORDER_TOKENS)
        right = share([orders.right(text, row.answer) for text, row in zip(said, skill, strict=True)])
        rows.append(flat(found) | {"orders": right and right.values()})
        numbers = [found.cell(name).text() for name in SHOWN]
        cells.append([label, *numbers, right.text() if right else ""])
    (demo.out / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    heads = ["model", "refuses harmful", "refuses harmless", "agreement, harmful", "harmless", "orders right"]
    print_table(heads, cells)


def main(
    model: Annotated[Path, typer.Argument(help="SmolLM2-135M-Instruct's folder.")],
    out: Annotated[Path, typer.Argument(help="Where to write.")],
    seed: Annotated[int, typer.Option(help="Of the data, the trainings and the repair.")] = 0,
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = SHAPE["lora_rank"],
    modules: Annotated[str, typer.Option(help="That the adapters change, with commas.")] = SHAPE["lora_target"],
) -> None:
    """Run the demo and print its table."""
    demo = Demo(model, out, seed, {"lora_rank": rank, "lora_target": modules})
    aligned = demo.align()
    fine_tuned = demo.fine_tune(aligned)
    repaired = demo.repair(aligned, fine_tuned)
    table(demo, aligned, fine_tuned, repaired)


if __name__ == "__main__":
    typer.run(main)
