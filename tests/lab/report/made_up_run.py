"""Makes a run folder as a study leaves it behind: made-up models, made-up numbers, harmless words.

``python -m tests.lab.report.made_up_run FOLDER`` writes the one that the documentation's pictures show.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import torch

from realign_plugin import SafetySubspace
from realign_plugin.evaluation.metrics.rates import wilson
from realign_plugin.subspace.spec import SubspaceSpec

TASKS = ("gsm8k", "中文")
SKILLS = {"gsm8k": "gsm8k", "code": "code", "中文": "中文 问答"}
MODULES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")


class MadeUpRun:
    """Writes a run folder; every number is drawn from a seed.

    Attributes:
        folder: Where.
        seeds: Seeds of the repairs.
        tasks: Fine-tuned models.
        extra: Further columns of the main table.
        layers: Of the model whose masks are trained.
        trained: Whether logs and subspaces of the trainings are there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seeds: int = 2,
        tasks: tuple[str, ...] = TASKS,
        extra: int = 0,
        layers: int = 12,
        trained: bool = True,
    ) -> None:
        self.folder = folder
        self.seeds = list(range(seeds))
        self.tasks = tasks
        self.extra = extra
        self.layers = layers
        self.trained = trained
        self.random = random.Random(11)
        self.models: list[dict[str, Any]] = []
        self.rates: dict[str, tuple[float, float, dict[str, float]]] = {}
        self.trainings: list[dict[str, Any]] = []

    def write(self) -> Path:
        """Everything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._models()
        self._tables()
        self._trainings()
        self._results()
        self._cards()
        self._commands()
        study = {
            "title": "Two made-up skills, repaired",
            "config": {"model": "made-up/instruct-1b", "seeds": self.seeds, "tasks": {t: {} for t in self.tasks}},
            "versions": {"realign_plugin": "0.2.0", "torch": "2.13.0", "llamafactory": "0.9.5", "lm_eval": "0.4.13"},
            "seeds": self.seeds,
            "created": "2026-11-24T09:30:00+00:00",
            "models": self.models,
            "trainings": self.trainings,
            "tables": ["main", "strength"],
        }
        self.json("study.json", study)
        return self.folder

    def json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")

    def _model(
        self, identity: str, label: str, group: str, role: str, *, harmful: float, refusing: float,
        skill: dict[str, float], **more: Any,
    ) -> None:  # fmt: skip
        entry = {"method": None, "seed": None, "subspace": None, "name": "", "fusion": None} | more
        self.models.append({"id": identity, "label": label, "group": group, "role": role} | entry)
        self.rates[identity] = (harmful, refusing, skill)

    def _models(self) -> None:
        none = dict.fromkeys(self.tasks, 0.22)
        self._model("base", "base", "start", "base", harmful=0.93, refusing=0.0, skill=none)
        self._model("aligned", "aligned", "start", "aligned", harmful=0.02, refusing=0.04, skill=none)
        for index, task in enumerate(self.tasks):
            top = 0.71 - 0.08 * index
            tuned = none | {task: top}
            self._model(
                f"{task}-tuned", "fine-tuned", task, "fine-tuned",
                harmful=0.58 + 0.15 * index, refusing=0.01, skill=tuned,
            )  # fmt: skip
            for seed in self.seeds:
                for mask, loss in (("soft", 0.01), ("binary", 0.06)):
                    self._model(
                        f"{task}-paper-{seed}-{mask}", f"realigned ({mask})", task, "realigned",
                        method="paper", seed=seed, subspace=f"models/{task}-paper-{seed}", name=f"realigned ({mask})",
                        harmful=0.03 + 0.02 * seed, refusing=0.05 + loss, skill=none | {task: top - loss},
                    )  # fmt: skip
                self._model(
                    f"{task}-dpo-{seed}", "LoRA-DPO", task, "baseline", method="lora_dpo", seed=seed, name="LoRA-DPO",
                    harmful=0.02, refusing=0.13, skill=none | {task: top - 0.09},
                )  # fmt: skip
            self._model(
                f"{task}-resta", "RESTA (0.7)", task, "baseline", method="resta",
                harmful=0.21, refusing=0.06, skill=none | {task: top - 0.04},
            )  # fmt: skip
        if len(self.tasks) > 1:
            every = dict.fromkeys(self.tasks, 0.52)
            for method in ("task arithmetic", "TIES"):
                name = method.replace(" ", "-")
                self._model(
                    f"fused-{name}", f"fused ({method})", "fused", "fused",
                    harmful=0.74, refusing=0.01, skill=every, fusion=name,
                )  # fmt: skip
                self._model(
                    f"fused-{name}-paper", f"fused + realigned ({method})", "fused", "fused realigned", method="paper",
                    seed=0, subspace="models/fused-paper-0", harmful=0.06, refusing=0.07, skill=every, fusion=name,
                    name=f"fused + realigned ({method})",
                )  # fmt: skip

    def cell(self, rate: float, count: int) -> dict[str, Any]:
        """A share of so many, with its interval."""
        hits = sum(self.random.random() < rate for _ in range(count))
        low, high = wilson(hits, count)
        return {"value": hits / count, "low": low, "high": high, "hits": hits, "count": count}

    def _tables(self) -> None:
        columns = [
            {"key": "safety.harmful_rate", "label": "harmful", "axis": "safety", "better": "lower"},
            {"key": "safety.refusal_rate", "label": "refused", "axis": "safety", "better": "higher"},
            {"key": "over.refusal_rate", "label": "over-refusal", "axis": "over-refusal", "better": "lower"},
            *(
                {"key": f"{task}.exact_match", "label": SKILLS.get(task, task), "axis": "skill", "better": "higher"}
                for task in self.tasks
            ),
            {"key": "perplexity", "label": "perplexity", "axis": "other", "better": "lower"},
            *(
                {"key": f"topic.{n}", "label": f"topic {n}: harmful", "axis": "safety", "better": "lower"}
                for n in range(self.extra)
            ),
        ]
        rows = []
        for model in self.models:
            harmful, refusing, skill = self.rates[model["id"]]
            cells = {
                "safety.harmful_rate": self.cell(harmful, 200),
                "safety.refusal_rate": self.cell(0.97 - harmful, 200),
                "over.refusal_rate": self.cell(refusing, 120),
                "perplexity": {"value": 6.2 + 2 * self.random.random()},
            }
            cells |= {f"{task}.exact_match": self.cell(skill[task], 250) for task in self.tasks}
            cells |= {f"topic.{n}": self.cell(harmful, 40) for n in range(self.extra)}
            if model["role"] == "base":
                cells["over.refusal_rate"] = {
                    "value": None,
                    "reason": "not measured: the base model has no chat template",
                }
                del cells["perplexity"]
            rows.append(
                {k: model[k] for k in ("label", "name", "group", "role", "method", "seed", "fusion")}
                | {"model": model["id"], "cells": cells}
            )
        self.json("tables/main.json", {
            "name": "main", "title": "All models", "description": "Every model of the study on every axis.",
            "columns": columns, "rows": rows,
        })  # fmt: skip
        strengths = []
        for strength in (0.2, 0.4, 0.6, 0.8, 1.0):
            cells = {
                "safety.harmful_rate": self.cell(0.6 - 0.55 * strength, 200),
                "over.refusal_rate": self.cell(0.07 * strength, 120),
            }
            strengths.append({
                "model": f"strength-{strength}", "label": f"strength {strength:g}", "group": self.tasks[0],
                "role": "realigned", "method": "paper", "seed": 0, "cells": cells,
            })  # fmt: skip
        self.json("tables/strength.json", {
            "name": "strength", "title": "Strength of the repair", "description": "mergekit's dial from 0 to 1.",
            "columns": [columns[0], columns[2]], "rows": strengths,
        })  # fmt: skip

    def _trainings(self) -> None:
        made = set()
        for model in self.models:
            folder = model["subspace"]
            if folder is None or folder in made:
                continue
            made.add(folder)
            if self.trained:
                self._subspace(folder, len(made))
            name = folder.rpartition("/")[2]
            self._log(folder, mask=True, seed=len(made))
            facts = {"name": f"{model['group']}: {model['method']}", "seed": model["seed"], "stage": "mask_dpo"}
            label = f"{facts['name']}, seed {model['seed']}"
            self.trainings.append({"id": name, "label": label, "folder": folder} | facts)
        for task in self.tasks[:1]:
            self._log(f"models/{task}-tuned", mask=False, seed=40)
            self.trainings.insert(0, {
                "id": f"{task}-tuned", "label": f"{task}: fine-tuning", "folder": f"models/{task}-tuned",
                "stage": "sft",
            })  # fmt: skip

    def _log(self, folder: str, *, mask: bool, seed: int) -> None:
        if not self.trained:
            return
        draw = random.Random(seed)
        lines, history = [], []
        for step in range(10, 401, 10):
            loss = 0.24 + 0.45 * math.exp(-step / 70) + 0.02 * draw.random()
            lines.append({"current_steps": step, "total_steps": 400, "loss": loss, "lr": 0.1, "epoch": step / 100})
            history.append({"step": step, "loss": loss})
            if mask:
                kept = 0.5 + 0.19 * (1 - math.exp(-step / 120)) + 0.005 * draw.random()
                history[-1] |= {"mask/mean": 0.5 + (kept - 0.5) * 0.6, "mask/share_above_half": kept}
            elif step % 50 == 0:
                lines.append({"current_steps": step, "eval_loss": loss + 0.05})
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"current_steps": 400, "percentage": 100.0}])
        (path / "trainer_log.jsonl").write_text(text)
        self.json(f"{folder}/trainer_state.json", {"log_history": history})

    def _subspace(self, folder: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        names = [f"model.layers.{layer}.{module}" for layer in range(self.layers) for module in MODULES]
        spec = SubspaceSpec(target_modules=names, lora_target=list(MODULES), r=2, lora_alpha=4, has_aligned=False)
        logits, deltas = {}, {}
        for number, name in enumerate(names):
            layer, module = divmod(number, len(MODULES))
            lean = 0.8 * math.sin(layer / 3.5 + 0.2 * seed) + 0.25 * module
            shapes = {"A": (2, 24), "B": (24, 2)}
            logits[name] = {f: lean + torch.randn(shape, generator=generator) for f, shape in shapes.items()}
            deltas[name] = {f: torch.randn(shape, generator=generator) for f, shape in shapes.items()}
        SafetySubspace(spec, logits, {}, [deltas], "made-up/instruct-1b").save(self.folder / folder)

    def _results(self) -> None:
        for model in self.models:
            report = {"calls": 190, "cached": 10, "unjudged": 1, "prompt_tokens": 41_000, "completion_tokens": 900,
                      "cost": 0.02, "errors": {"unreadable": 1}, "fatal": None}  # fmt: skip
            judge = {"judge": "openai", "model": "made-up-judge", "mode": "harmful", "order": "both",
                     "prompts": {"harmful": 2, "preference": 1}, "report": report}  # fmt: skip
            self.json(
                f"results/{model['id']}/made-up__model/results_2026-11-24T09-00-00.json",
                {"results": {}, "realign": {"intervals": {}, "judge": judge}},
            )

    def _cards(self) -> None:
        self.json("data/preference.card.json", {
            "name": "preference", "kind": "preference", "seed": 0, "format": 1,
            "source": {"name": "made-up/pairs", "config": None, "split": "train", "licence": "CC-BY-4.0"},
            "what": "Pairs in which exactly one answer is safe.",
            "distinct_prompts": {"training": 840, "validation": 90},
            "counts": {"read": 5135, "written": 4620, "validation": 515, "dropped": {"duplicate": 12, "empty": 3}},
            "files": {"preference.jsonl": "5f" * 32, "preference_validation.jsonl": "a0" * 32},
        })  # fmt: skip
        self.json("data/हिन्दी.card.json", {
            "name": "हिन्दी", "kind": "contrast", "source": "made-up/recipes", "licence": None, "seed": 0,
            "description": "सामान्य प्रश्न और उत्तर: benign questions, so that the mask does not learn to refuse all.",
            "counts": {"read": 900, "written": 880, "dropped": {}}, "sha256": {"हिन्दी.jsonl": "0b" * 32},
        })  # fmt: skip

    def _commands(self) -> None:
        lines = []
        for training in self.trainings:
            words = f"llamafactory-cli train configs/{training['id']}.yaml output_dir={training['folder']}"
            lines.append({"step": f"train.{training['id']}", "kind": "realign", "command": words, "seconds": 113.6,
                          "log": f"logs/{training['id']}.log"})  # fmt: skip
        for model in self.models[:4]:
            words = (
                f"lm_eval --model hf --model_args pretrained=made-up/instruct-1b,peft=exports/{model['id']} "
                "--tasks safety,over_refusal,realign_downstream --apply_chat_template --log_samples "
                f'--output_path results/{model["id"]} --metadata \'{{"judge_model": "made-up-judge"}}\''
            )
            lines.append({"step": f"evaluate.{model['id']}", "kind": "evaluate", "command": words, "seconds": 4210,
                          "log": None})  # fmt: skip
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (self.folder / "commands.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(MadeUpRun(Path(sys.argv[1])).write())
