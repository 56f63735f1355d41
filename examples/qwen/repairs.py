"""The data, trainings and measurements of bench.py."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import trial
from measure import accuracy, part_of
from settings import PAIRED, SIDES, STARTS, STEPS, TUNING, Setting
from stacking import stack

FAST: Final = {"disable_gradient_checkpointing": True, "max_steps": STEPS}
ENDS: Final = ("aligned", "fine-tuned")
COLUMNS: Final = {"prompt": "instruction", "query": "input", "response": "output"}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """The files of a bench."""

    model: Path
    data: Path
    out: Path

    @property
    def folder(self) -> Path:
        """What the bench adds to the trial's folder."""
        return self.out / "bench"

    @cached_property
    def tasks(self) -> dict[str, tuple[Rows, Rows]]:
        """Of each skill: rows to fine-tune on, 640 or 320, and about 100 to measure with."""
        maths, held = (
            [{"instruction": row["question"], "input": "", "output": row["answer"]} for row in lines(self.data / file)]
            for file in ("downstream/gsm8k_train_2k.jsonl", "downstream/gsm8k_test.jsonl")
        )
        found = {"maths": (maths[:640], held[-100:]), "further": (maths[-320:], [])}
        for name, file in (("general", "alpaca_en_demo"), ("code", "code_alpaca_2k")):
            given = json.loads((self.data / f"downstream/{file}.json").read_text(encoding="utf-8"))
            random.Random(1).shuffle(given)
            kept = [{k: row.get(k) or "" for k in COLUMNS.values()} for row in given if 0 < len(row["output"]) < 700]
            found[name] = kept[:640], kept[-100:]
        found["mixture"] = json.loads((self.out / "data/skill.json").read_text(encoding="utf-8")), held[-100:]
        three = [found[name] for name in ("maths", "general", "code")]
        found["all"] = [row for one in three for row in one[0][:80]], [row for one in three for row in one[1][:33]]
        return found

    def own(self, seed: int) -> Rows:
        """The aligned model's own answers to safety prompts, from ``realign repair`` with one seed."""
        rows = lines(self.out / f"repaired-{seed}/work/data/repair.rows.jsonl")
        return [
            {"instruction": row["prompt"], "input": row["input"], "output": row["aligned"], "kind": row["kind"]}
            for row in rows
        ]

    def part(self, skill: str) -> Any:
        """The validation prompts, with the rows of a skill."""
        from realign_plugin.data.prompts import read_prompts
        from realign_plugin.lab.repair.parts import Part, read_skill

        pairs = json.loads((self.data / "preference/pku_saferlhf_pairs_5k.json").read_text(encoding="utf-8"))
        harmful = list(dict.fromkeys(row["prompt"] for row in pairs))
        random.Random(0).shuffle(harmful)
        used = {row["instruction"] for row in self.own(0) if row["kind"] == "benign"}
        benign = [prompt for prompt in read_prompts(["borderline"], "benign", None, 0) if prompt.text not in used]
        file = self._write(self.folder / "parts" / "harmful.json", [{"prompt": text} for text in harmful[700:850]])
        rows = self._write(self.folder / "parts" / f"{skill}.json", self.tasks[skill][1])
        return Part(read_prompts([str(file)], "harmful", None, 0), benign, read_skill([str(rows)], skill))

    @staticmethod
    def _write(file: Path, rows: Sequence[Any]) -> Path:
        from realign_plugin.files import write_json

        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, list(rows))
        return file

    def _datasets(self, name: str, rows: Mapping[str, Sequence[Any]]) -> Path:
        folder = self.folder / "data" / name
        for one, some in rows.items():
            self._write(folder / f"{one}.json", some)
        info = {one: {"file_name": f"{one}.json", "columns": COLUMNS} for one in rows}
        (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
        return folder

    def adapter(self, name: str) -> Path:
        """The LoRA adapter of a fine-tuned or repaired model."""
        if name == "mixture":
            return self.out / "fine-tuned"
        folder = self.folder / "models" / name
        return folder / "lora" if (folder / "lora").exists() else folder

    def start(self, name: str) -> Path:
        """The LoRA adapter of a start; several tasks are fused."""
        from realign_plugin.subspace.fusing import plain_fusion

        tasks, folder = STARTS[name].tasks, self.folder / "models" / name
        if len(tasks) == 1:
            return self.adapter(tasks[0])
        if not folder.exists():
            plain_fusion(None, [self.adapter(task) for task in tasks]).to_lora(folder)
        return folder

    def _llamafactory(self, name: str, options: Mapping[str, Any]) -> Path:
        """One training, in this process, by the stock command's own entry point."""
        from llamafactory.cli import main

        given = {"model_name_or_path": str(self.model), "output_dir": f"models/{name}", **FAST, **options}
        sys.argv = ["llamafactory-cli", "train", str(trial.write_options(self.folder, given))]
        main()
        return self.folder / "models" / name

    def fine_tune(self, name: str) -> None:
        """Fine-tune the aligned model on one task; a number after the name is the seed."""
        if name == "mixture":
            trial.fine_tune(self.model, self.out)
            return
        task, _, seed = name.partition("-")
        folder = self._datasets(name, {"skill": self.tasks[task][0]})
        options = {**trial.FINE_TUNING, "dataset_dir": str(folder), "seed": int(seed or 0), "max_steps": -1}
        self._llamafactory(name, options)

    def _train(self, name: str, setting: Setting) -> Path:
        from realign_plugin.evaluation.refusals import refuses

        start = STARTS[setting.start]
        best = self.best(setting.side) if setting.best else {}
        options = {**SIDES[setting.side], **best, **setting.options, "seed": setting.seed}
        safety = [row for row in self.own(setting.seed) if row["kind"] in setting.kinds]
        if setting.refused:
            safety = [row for row in safety if refuses(row["output"])]
        random.Random(setting.seed).shuffle(safety)
        rows = {"safety": safety[: setting.rows], "skill": self.tasks[start.skill][0][:240][: setting.rows]}
        folder = self._datasets(name, rows | {"further": self.tasks["further"][0]})
        if setting.side in PAIRED:
            folder = trial.pairs(self.out, setting.seed)
            options |= {"dataset": "repair_pairs,contrast_skill", "per_device_train_batch_size": trial.ROWS // 2}
        elif options["stage"] == "safety_distill":
            options |= {"skill_dataset": "skill"}
        options = {"dataset": "safety" if setting.refused else "safety,skill", "dataset_dir": str(folder)} | options
        if setting.adapter == "base":
            options |= {"lora_rank": 16, "lora_target": "all"}
        else:
            tasks = [str(self.adapter(setting.adapter or task)) for task in start.tasks]
            options |= {"task_adapters" if options["stage"] in trial.OURS else "adapter_name_or_path": tasks}
        return self._llamafactory(name, options)

    def best(self, side: str) -> Mapping[str, Any]:
        """Options of a side's tuned setting with the smallest cost on the validation prompts."""
        names = [name for name, one in TUNING.items() if one.side == side]
        return TUNING[min(names, key=lambda name: self.read(f"row-{name}")["cost"]["total"])].options

    def make(self, name: str, setting: Setting) -> None:
        """Train or merge one row, and measure it on the validation prompts."""
        from realign_plugin.subspace.subspace import SafetySubspace
        from realign_plugin.subspace.transfer import transfer

        begun, folder = time.monotonic(), self.folder / "models" / name
        if setting.side == "merge":
            stack({self.adapter(one): weight for one, weight in setting.weights.items()}, folder)
        elif setting.side == "transfer":
            trained = SafetySubspace.load(self.folder / "models" / str(setting.adapter))
            transfer(trained, self.start(setting.start)).to_lora(folder)
        else:
            self._train(name, setting)
            if SIDES[setting.side]["finetuning_type"] == "safety_subspace":
                SafetySubspace.load(folder).to_lora(folder / "lora")
            elif setting.options.get("create_new_adapter"):
                stack({self.start(setting.start): 1.0, folder: 1.0}, folder / "lora")
        self.validate(f"row-{name}", setting.start, name, {"seconds": time.monotonic() - begun})

    def _measurer(self, start: str, name: str) -> Any:
        from realign_plugin.lab.repair.measuring import Measurer
        from realign_plugin.lab.repair.plan import default_batch_size

        adapters: dict[str, Path | None] = {ENDS[0]: None, ENDS[1]: self.start(start)}
        if name not in ENDS:
            adapters[safe(name)] = self.adapter(name)
        return Measurer(self.folder / "measured" / start, str(self.model), adapters, batch_size=default_batch_size())

    def validate(self, job: str, start: str, name: str, facts: Mapping[str, Any]) -> None:
        """Measure a model on the validation prompts, and write its result."""
        from realign_plugin.lab.repair.dial import cost
        from realign_plugin.lab.repair.outcome import flat, row_of

        part, measurer = self.part(STARTS[start].skill), self._measurer(start, name)
        ends = [measurer.measure(end, "validation", part) for end in ENDS]
        found = measurer.measure(safe(name), "validation", part)
        lost = cost(found, *ends)
        self._result(job, {**facts, "cost": lost.model_dump() | {"total": lost.total}, **flat(row_of(name, found))})

    def test(self, job: str, start: str, name: str) -> None:
        """Measure a model on the trial's test prompts, and write its result."""
        from realign_plugin.lab.repair.outcome import flat, row_of
        from realign_plugin.lab.repair.readings import change, share

        whole = part_of({key: self.out / "data" / f"{key}.json" for key in ("test", "test_benign", "test_skill")})
        measurer = self._measurer(start, name)
        before, found = (measurer.measure(one, "test", whole) for one in (ENDS[1], safe(name)))
        loss = change(found.skill, before.skill, lambda row: row.loss)
        solved = share(accuracy(measurer, safe(name), whole))
        facts = {"loss_change": loss and loss.values(), "solved": solved and solved.values()}
        self._result(job, {**facts, **flat(row_of(name, found))})

    def _result(self, job: str, result: Mapping[str, Any]) -> None:
        file = self.folder / "results" / f"{job}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result), encoding="utf-8")

    def done(self, job: str) -> bool:
        """Whether a job is finished."""
        return (self.folder / "results" / f"{job}.json").exists()

    def read(self, job: str) -> dict[str, Any]:
        """A finished job's result."""
        found: dict[str, Any] = json.loads((self.folder / "results" / f"{job}.json").read_text(encoding="utf-8"))
        return found


def safe(name: str) -> str:
    """A model's name as PEFT takes it: without points."""
    return name.replace(".", "_")


def lines(file: Path) -> Rows:
    """The rows of a file with one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
