"""The data, trainings and measurements of bench.py."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bench_paths  # noqa: F401
import trial
from projections import projected
from safe_delta import safe_delta
from settings import ALIGNED, PAIRED, SIDES, WRAPPINGS, Setting
from stacking import stack
from worlds import World

from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.dial import cost
from realign_plugin.lab.repair.measuring import Measurer
from realign_plugin.lab.repair.outcome import flat, row_of
from realign_plugin.lab.repair.parts import Part, read_skill
from realign_plugin.lab.repair.plan import default_batch_size
from realign_plugin.lab.repair.readings import change, share

ENDS: Final = (ALIGNED, "fine-tuned")
REPAIRED: Final = "repaired"
COLUMNS: Final = {"prompt": "instruction", "query": "input", "response": "output"}


@dataclass(frozen=True)
class Bench:
    """One world's settings, trained and measured."""

    world: World

    @property
    def folder(self) -> Path:
        """What the bench adds to the folder of the world's run."""
        return self.world.out / "bench"

    def _part(self, skill: str) -> Part:
        """The validation prompts, with the rows of a skill."""
        file = self._write(self.folder / "parts" / f"{skill}.json", self.world.tasks[skill].validation)
        return Part(*self.world.validation(), read_skill([str(file)], skill))

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
        """The LoRA adapter of an aligned, fine-tuned or repaired model."""
        if name == ALIGNED and self.world.aligned is not None:
            return self.world.aligned
        if name == self.world.plan.main:
            return self.world.fine_tuned
        kind, _, seed = name.partition("-")
        if kind == REPAIRED:
            return self.world.repaired(int(seed))
        folder = self.folder / "models" / name
        return folder / "lora" if (folder / "lora").exists() else folder

    def repaired(self, seeds: Sequence[int]) -> list[str]:
        """The models of finished ``realign repair``, one for each seed."""
        names = {self.world.repaired(seed): f"{REPAIRED}-{seed}" for seed in reversed(seeds)}
        return sorted(name for folder, name in names.items() if (folder / "before_after.json").exists())

    def start(self, name: str) -> Path:
        """The LoRA adapter of a start; several tasks are fused."""
        from realign_plugin.subspace.fusing import plain_fusion

        tasks, folder = self.world.plan.starts[name].tasks, self.folder / "models" / name
        if len(tasks) == 1:
            return self.adapter(tasks[0])
        if not folder.exists():
            plain_fusion(self.world.aligned, [self.adapter(task) for task in tasks]).to_lora(folder)
        return folder

    def _llamafactory(self, name: str, options: Mapping[str, Any]) -> Path:
        """One training, in this process, by the stock command's own entry point."""
        from llamafactory.cli import main

        given = {"model_name_or_path": str(self.world.model), "output_dir": f"models/{name}"}
        given |= {"disable_gradient_checkpointing": self.world.roomy}
        given |= {"max_steps": self.world.plan.steps, **options}
        sys.argv = ["llamafactory-cli", "train", str(trial.write_options(self.folder, given))]
        main()
        return self.folder / "models" / name

    def fine_tune(self, name: str) -> None:
        """Fine-tune the aligned model on one task; a number after the name is the seed."""
        if name == self.world.plan.main:
            if not self.world.fine_tuned.exists():
                trial.fine_tune(self.world.model, self.world.out)
            return
        task, _, seed = name.partition("-")
        folder = self._datasets(name, {"skill": self.world.tasks[task].train})
        options = {**self.world.tuning(task), "dataset_dir": str(folder), "seed": int(seed or 0), "max_steps": -1}
        self._llamafactory(name, options)

    def _data(self, name: str, setting: Setting) -> Path:
        """The data sets of a setting that is not trained on pairs."""
        from realign_plugin.evaluation.answers.refusals import refuses

        tasks, skill = self.world.tasks, self.world.plan.starts[setting.start].skill
        safety = [row for row in self.world.own(setting.seed) if row["kind"] in setting.kinds]
        if setting.refused:
            safety = [row for row in safety if refuses(row["output"])]
        random.Random(setting.seed).shuffle(safety)
        if setting.wrapped:
            safety[::2] = self._wrapped(safety[::2])
        rows = {
            "safety": safety[: setting.rows],
            "skill": tasks[skill].train[: self.world.budget.skill][: setting.rows],
        }
        return self._datasets(name, rows | {"further": tasks["further"].train})

    def _wrapped(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Safety rows in other forms, with the aligned model's own answers to them."""
        texts = [Prompt(row["instruction"], row["input"]).text for row in rows]
        asked = [Prompt(WRAPPINGS[n % len(WRAPPINGS)].format(text)) for n, text in enumerate(texts)]
        measurer = self._measurer(self.world.plan.main, ENDS[0])
        said = measurer.answers(ENDS[0], "wrapped", asked, self.world.budget.answer_tokens)
        return [
            {"instruction": prompt.text, "input": "", "output": text, "kind": row["kind"]}
            for prompt, text, row in zip(asked, said, rows, strict=True)
        ]

    def _train(self, name: str, setting: Setting) -> Path:
        start, aligned = self.world.plan.starts[setting.start], self.world.aligned
        options = {**SIDES[setting.side], **self._best(setting), **setting.options, "seed": setting.seed}
        if setting.side in PAIRED:
            folder = self.world.pairs(setting.seed)
            options |= {"dataset": f"{setting.pairs},contrast_skill", "per_device_train_batch_size": trial.ROWS // 2}
        else:
            folder = self._data(name, setting)
            skilled = setting.skill and not setting.refused
            options = {"dataset": "safety,skill" if skilled else "safety"} | options
            if options["stage"] == "safety_distill":
                options |= {"skill_dataset": "skill"} if skilled else {"distill_skill_weight": 0.0}
        options |= {"dataset_dir": str(folder)}
        ours = options["stage"] in trial.OURS
        if ours and aligned is not None:
            options |= {"aligned_adapter": str(aligned)}
        if setting.adapter == "base":
            options |= {"lora_rank": 16, "lora_target": "all"}
        else:
            tasks = [str(self.adapter(setting.adapter or task)) for task in start.tasks]
            if options["finetuning_type"] == "lora" and len(tasks) > 1:
                tasks = [str(self.start(setting.start))]
            options |= {"task_adapters": tasks} if ours else {"adapter_name_or_path": ",".join(tasks)}
        return self._llamafactory(name, options)

    def _best(self, setting: Setting) -> Mapping[str, Any]:
        """Options of the side's tuned setting with the smallest cost on the validation prompts."""
        if not setting.best:
            return {}
        tuned = {name: one for name, one in self.world.plan.trials().items() if one.side == setting.side}
        finished = [name for name in tuned if self.done(f"row-{name}")]
        return tuned[min(finished, key=lambda name: self.read(f"row-{name}")["cost"]["total"])].options

    def make(self, name: str, setting: Setting) -> None:
        """Train or merge one row, and measure it on the validation prompts."""
        from realign_plugin.evaluation.answers.refusals import refuses
        from realign_plugin.subspace.subspace import SafetySubspace
        from realign_plugin.subspace.transfer import transfer

        begun, folder = time.monotonic(), self.folder / "models" / name
        done = [other for other in self.world.plan.same(setting, self._best(setting)) if self.done(f"row-{other}")]
        if done and done[0] != name:
            folder.symlink_to(self.folder / "models" / done[0])
        elif setting.side == "merge":
            stack({self.adapter(one): weight for one, weight in setting.weights.items()}, folder)
        elif setting.side == "safe_delta":
            refused = [row for row in self.world.own(setting.seed) if refuses(row["output"])]
            options = {**self._best(setting), **setting.options}
            safe_delta(
                self.world.model, self.world.aligned, self.start(setting.start), refused, options["share"], folder
            )
        elif setting.side in ("safe_lora", "safe_merge"):
            threshold = {**self._best(setting), **setting.options}["threshold"]
            projected(
                setting.side, self.world.model, self.adapter(ALIGNED), self.start(setting.start), threshold, folder
            )
        elif setting.side == "transfer":
            trained = SafetySubspace.load(self.folder / "models" / str(setting.adapter))
            transfer(trained, self.start(setting.start)).to_lora(folder)
        else:
            self._train(name, setting)
            if SIDES[setting.side]["finetuning_type"] == "safety_subspace":
                SafetySubspace.load(folder).to_lora(folder / "lora")
            elif setting.options.get("create_new_adapter"):
                stack({self.start(setting.start): 1.0, folder: 1.0}, folder / "lora")
        spent = {"seconds": time.monotonic() - begun}
        if setting.compared:
            self.validate(f"row-{name}", setting.start, name, spent)
        else:
            self._result(f"row-{name}", spent)

    def _measurer(self, start: str, name: str) -> Measurer:
        adapters: dict[str, Path | None] = {ENDS[0]: self.world.aligned, ENDS[1]: self.start(start)}
        if name not in ENDS:
            adapters[safe(name)] = self.adapter(name)
        return Measurer(
            self.folder / "measured" / start, str(self.world.model), adapters, batch_size=default_batch_size(),
            answer_tokens=self.world.budget.answer_tokens,
        )  # fmt: skip

    def _solved(self, measurer: Measurer, name: str, where: str, rows: Sequence[Example]) -> dict[str, Any]:
        """Share of the skill's rows that a model solves."""
        said = measurer.answers(safe(name), where, [row.prompt for row in rows], self.world.answer_tokens)
        found = share([self.world.solved(text, row) for text, row in zip(said, rows, strict=True)])
        return {"solved": found and found.values()}

    def validate(self, job: str, start: str, name: str, facts: Mapping[str, Any]) -> None:
        """Measure a model on the validation prompts, and write its result."""
        part, measurer = self._part(self.world.plan.starts[start].skill), self._measurer(start, name)
        ends = [measurer.measure(end, "validation", part) for end in ENDS]
        found = measurer.measure(safe(name), "validation", part)
        lost = cost(found, *ends)
        more = self._solved(measurer, name, "validation/solved", part.skill) if self.world.solves_fast else {}
        told = {**facts, **more, "cost": lost.model_dump() | {"total": lost.total}}
        self._result(job, told | flat(row_of(name, found)))

    def test(self, job: str, start: str, name: str) -> None:
        """Measure a model of a start on the test prompts, and write its result."""
        skill = self.world.plan.starts[start].skill
        whole, measurer = self.world.test(skill), self._measurer(start, name)
        before, found = (measurer.measure(one, "test", whole) for one in (ENDS[1], safe(name)))
        loss = change(found.skill, before.skill, lambda row: row.loss)
        told: dict[str, Any] = {"loss_change": loss and loss.values()}
        if self.world.roomy and skill == self.world.plan.skill:
            told |= self._solved(measurer, name, "test/solved", whole.skill)
        self._result(job, told | flat(row_of(name, found)))

    def attack(self, job: str, name: str) -> None:
        """Ask a model and the aligned one the test's harmful prompts within each attack's template."""
        from realign_plugin.evaluation.answers.refusals import refuses
        from realign_plugin.evaluation.attacks import TEMPLATES

        plan = self.world.plan
        harmful, measurer = self.world.test(plan.skill).harmful, self._measurer(plan.main, name)
        found = {}
        for kind, template in TEMPLATES.items():
            asked = [Prompt(template.replace("{{prompt}}", prompt.text), system=prompt.system) for prompt in harmful]
            said = (
                measurer.answers(one, f"attack/{kind}", asked, self.world.budget.answer_tokens)
                for one in (ENDS[0], safe(name))
            )
            aligned, own = ([refuses(text) for text in texts] for texts in said)
            same = [one == two for one, two in zip(aligned, own, strict=True)]
            rates = {"refuses": share(own), "agreement": share(same)}
            found[kind] = {what: rate and rate.values() for what, rate in rates.items()}
        self._result(job, found)

    def finish(self, job: str) -> None:
        """Note that a job without numbers is done."""
        self._result(job, {})

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
