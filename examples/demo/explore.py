"""Tries settings of self-distillation on the demo's models, and measures them on prompts that nothing else uses.

    python examples/demo/explore.py MODEL runs/demo-0 --only masks-0.3,lora-1e-3

The demo has to be finished: its on-policy data is what each setting is trained on. Measured on 120 harmful prompts, 34
harmless ones and 60 orders. What is done is not done again; ``explored.md`` holds the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import orders
import prompts
import typer
from demo import BUDGET, SHOWN, Demo

from realign_plugin.lab.repair.dial import cost
from realign_plugin.lab.repair.measuring import Measurer
from realign_plugin.lab.repair.outcome import row_of
from realign_plugin.lab.repair.parts import Part, read_skill
from realign_plugin.lab.repair.plan import BUDGETS, default_batch_size

SOFT: Final = {"mask_estimator": "relaxed", "mask_noise": 0.0, "mask_noise_end": 0.0}
MASKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "masks-0.1": {"learning_rate": 0.1},
    "masks-0.3": {"learning_rate": 0.3},
    "masks-1": {"learning_rate": 1.0},
    "masks-0.3-init-1": {"learning_rate": 0.3, "mask_init": 1.0},
    "masks-0.3-soft": {"learning_rate": 0.3, **SOFT},
    "masks-0.3-row": {"learning_rate": 0.3, "mask_granularity": "row"},
    "masks-0.3-reverse": {"learning_rate": 0.3, "distill_divergence": "reverse"},
    "masks-0.3-80": {"learning_rate": 0.3, "max_steps": 80},
}
LORA: Final[Mapping[str, Mapping[str, Any]]] = {
    "lora-2e-4": {"learning_rate": 2e-4},
    "lora-5e-4": {"learning_rate": 5e-4},
    "lora-1e-3": {"learning_rate": 1e-3},
    "lora-2e-3": {"learning_rate": 2e-3},
    "lora-1e-3-reverse": {"learning_rate": 1e-3, "distill_divergence": "reverse"},
    "lora-1e-3-temperature-2": {"learning_rate": 1e-3, "distill_temperature": 2.0},
    "lora-1e-3-skill-2": {"learning_rate": 1e-3, "distill_skill_weight": 2.0},
    "lora-1e-3-20": {"learning_rate": 1e-3, "max_steps": 20},
    "lora-5e-4-80": {"learning_rate": 5e-4, "max_steps": 80},
    "lora-2e-4-80": {"learning_rate": 2e-4, "max_steps": 80},
}


class Exploration:
    """Trains one setting after the other on a demo's data."""

    def __init__(self, demo: Demo) -> None:
        self.demo, self.out = demo, demo.out / "explored"
        self.ends = {"aligned": demo.out / "aligned", "fine-tuned": demo.out / "fine-tuned"}
        self.out.mkdir(exist_ok=True)
        rows = self.out / "orders.json"
        rows.write_text(json.dumps(orders.orders(60, demo.seed + 2000)), encoding="utf-8")
        harmful, harmless = demo.unused()
        self.part = Part(prompts.as_prompts(harmful), prompts.as_prompts(harmless), read_skill([str(rows)], "orders"))

    def train(self, name: str) -> Path:
        """One setting by the stock command; returns a plain LoRA adapter."""
        masked = name in MASKS
        given = {
            "stage": "safety_distill", "finetuning_type": "safety_subspace" if masked else "lora", "lora_rank": None,
            "lora_target": None, "warmup_ratio": 0.0, "num_train_epochs": None, "max_steps": BUDGETS[BUDGET].steps,
            "dataset_dir": str(self.demo.out / "repaired" / "work" / "data"), "skill_dataset": "repair_skill",
            "aligned_adapter": str(self.ends["aligned"]), "task_adapters": [str(self.ends["fine-tuned"])],
            **(MASKS if masked else LORA)[name],
        }  # fmt: skip
        folder = self.demo.train(f"explored-{name}", "repair,repair_skill", **given)
        if not masked:
            return folder
        from realign_plugin.subspace import SafetySubspace

        exported = folder.with_name(f"{folder.name}-lora")
        return exported if exported.exists() else SafetySubspace.load(folder).to_lora(exported)

    def measure(self, name: str, adapter: Path) -> list[str]:
        """The cells of a model's row."""
        safe = name.replace(".", "_")  # PEFT takes no points in a name
        measurer = Measurer(
            self.out / "measured", str(self.demo.model), {**self.ends, safe: adapter},
            batch_size=default_batch_size(), answer_tokens=BUDGETS[BUDGET].answer_tokens,
        )  # fmt: skip
        aligned, before, found = (measurer.measure(one, "unused", self.part) for one in (*self.ends, safe))
        row, lost = row_of(name, found), cost(found, aligned, before)
        divergence = row.cell("skill_divergence").value
        return [*(row.cell(key).text() for key in SHOWN), f"{divergence:.4f}", f"{lost.total:.2f}"]


def main(
    model: Annotated[Path, typer.Argument(help="SmolLM2-135M-Instruct's folder.")],
    out: Annotated[Path, typer.Argument(help="Folder of a finished demo.")],
    seed: Annotated[int, typer.Option(help="The demo's.")] = 0,
    only: Annotated[str, typer.Option(help="Settings, with commas.")] = ",".join((*MASKS, *LORA)),
) -> None:
    """Train and measure each setting, and print the table as it grows."""
    explored = Exploration(Demo(model, out, seed))
    heads = ("refuses harmful", "refuses harmless", "agreement, harmful", "harmless", "KL of the skill", "cost", "s")
    lines = [f"| setting | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in ("aligned", "fine-tuned", *only.split(",")):
        start = time.monotonic()
        adapter = explored.ends.get(name) or explored.train(name)
        seconds = time.monotonic() - start
        lines.append(f"| {name} | {' | '.join(explored.measure(name, adapter))} | {seconds:.0f} |")
        (out / "explored.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        typer.echo(lines[-1])


if __name__ == "__main__":
    typer.run(main)
