"""Tries settings of self-distillation on the demo's models, and measures them on prompts that nothing else uses.

    python examples/demo/explore.py MODEL runs/demo-0 --only masks,lora,masks-0.1

The demo has to be finished: its on-policy data is what each setting is trained on. Measured on 120 harmful prompts, 34
harmless ones and 60 orders. What is done is not done again; ``explored.md`` holds the table.
"""

from __future__ import annotations

import json
import shutil
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

NOISY: Final = {"mask_estimator": "straight_through", "mask_noise": 1.0, "mask_noise_end": 0.0}
SIDES: Final[Mapping[str, Mapping[str, Any]]] = {
    "masks": {"finetuning_type": "safety_subspace", "learning_rate": BUDGETS[BUDGET].rates["masks"]},
    "lora": {"finetuning_type": "lora", "learning_rate": BUDGETS[BUDGET].rates["lora"]},
}
EITHER: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {},
    "16-rows": {"max_samples": 16},
    "no-skill": {"distill_skill_weight": 0.0},
    "harmful": {"kind": "harmful"},
    "benign": {"kind": "benign"},
    "72-steps": {"max_steps": 72},
    "reverse": {"distill_divergence": "reverse"},
    "temperature-2": {"distill_temperature": 2.0},
}
"""Tried on both sides."""
SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    **{
        f"{side}-{name}".rstrip("-"): {**given, **options}
        for name, options in EITHER.items()
        for side, given in SIDES.items()
    },
    **{f"masks-{rate}": {**SIDES["masks"], "learning_rate": rate} for rate in (0.1, 0.25, 1.0)},
    "masks-noisy": {**SIDES["masks"], **NOISY},
    "masks-noisy-0.1": {**SIDES["masks"], **NOISY, "learning_rate": 0.1},
    "masks-row": {**SIDES["masks"], "mask_granularity": "row"},
    "masks-init-1": {**SIDES["masks"], "mask_init": 1.0},
    **{f"lora-{rate}": {**SIDES["lora"], "learning_rate": rate} for rate in (5e-4, 1e-3, 4e-3)},
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
        options = dict(SETTINGS[name])
        data = self.demo.out / "repaired" / "work" / "data"
        if kind := options.pop("kind", None):
            data = self._only(kind, data)
        given = {
            "stage": "safety_distill", "lora_rank": None, "lora_target": None, "warmup_ratio": 0.0,
            "num_train_epochs": None, "max_steps": BUDGETS[BUDGET].steps, "dataset_dir": str(data),
            "skill_dataset": "repair_skill", "aligned_adapter": str(self.ends["aligned"]),
            "task_adapters": [str(self.ends["fine-tuned"])], **options,
        }  # fmt: skip
        folder = self.demo.train(f"explored-{name}", "repair,repair_skill", **given)
        if options["finetuning_type"] == "lora":
            return folder
        from realign_plugin.subspace import SafetySubspace

        exported = folder.with_name(f"{folder.name}-lora")
        return exported if exported.exists() else SafetySubspace.load(folder).to_lora(exported)

    def _only(self, kind: str, data: Path) -> Path:
        """The repair's data sets with one kind of safety prompts."""
        folder = self.out / kind
        if not folder.exists():
            shutil.copytree(data, folder)
            rows = [json.loads(line) for line in (data / "repair.rows.jsonl").read_text(encoding="utf-8").splitlines()]
            kept = [
                {"instruction": row["prompt"], "input": row["input"], "output": row["aligned"]}
                for row in rows if row["kind"] == kind
            ]  # fmt: skip
            (folder / "repair.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
        return folder

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
    only: Annotated[str, typer.Option(help="Settings, with commas.")] = ",".join(SETTINGS),
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
