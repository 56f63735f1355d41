"""The measuring part of a plan: evaluations by lm-eval, the choice of strengths, and the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.study.config import StudyConfig
from realign_plugin.study.models_config import Task
from realign_plugin.study.plan import Model, Plan, Step, TableSpec
from realign_plugin.study.sections import Arguments

PLAN: Final = "plan.json"
WEIGHTS: Final = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors")
"""Files of a given model that tell when it was changed."""
CHOOSING: Final = "results-choose"
"""Folder of the results on validation prompts."""


class Measuring:
    """Adds evaluations, choices and tables to a plan.

    Attributes:
        plan: The plan.
        config: The configuration.
        main: Step that measures each model of the main tables, by the model's id.
        tokenizer: Folder of the tokenizer that all models are measured with, and the step that makes it.
    """

    def __init__(self, plan: Plan, config: StudyConfig) -> None:
        self.plan = plan
        self.config = config
        self.main: dict[str, str] = {}
        self.tokenizer = (config.model, "")
        self._tried: list[Model] = []

    def path(self, *parts: str) -> str:
        """A path below the study's folder, as commands name it."""
        return str(Path(self.config.root, *parts))

    def command(self, model: Model, results: str, tasks: Sequence[str], metadata: Arguments) -> tuple[str, ...]:
        """The stock command line that measures a model.

        Args:
            model: The model.
            results: Folder of the results, below the study's.
            tasks: lm-eval tasks.
            metadata: On top of the configuration's.
        """
        evaluate = self.config.evaluate
        given = {"pretrained": model.pretrained, "peft": model.peft, "tokenizer": self.tokenizer[0]}
        arguments = {key: value for key, value in (given | evaluate.model_args).items() if value is not None}
        words = ["lm_eval", "--model", "hf", "--model_args", ",".join(f"{k}={v}" for k, v in arguments.items())]
        words += ["--tasks", ",".join(tasks), "--output_path", self.path(results, model.id), "--log_samples"]
        words += ["--apply_chat_template"] if evaluate.chat_template else []
        for key, value in evaluate.options.items():
            if value is not False and value is not None:
                words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        if everything := evaluate.metadata | metadata:
            words += ["--metadata", json.dumps(everything, ensure_ascii=False)]
        return tuple(words)

    def evaluations(
        self,
        models: Sequence[Model],
        results: str = "results",
        tasks: Sequence[str] = (),
        metadata: Arguments | None = None,
    ) -> dict[str, str]:
        """Steps that measure models, several in one process where the configuration says so.

        Args:
            models: The models.
            results: Folder of the results, below the study's.
            tasks: lm-eval tasks in place of each model's own.
            metadata: On top of the configuration's.

        Returns:
            The step of each model, by the model's id.
        """
        size = self.config.evaluate.models_per_job
        found: dict[str, str] = {}
        for start in range(0, len(models), size):
            part = models[start : start + size]
            name = f"{'evaluate' + results.removeprefix('results')}-{part[0].id}"
            says = (
                f"{part[0].id}: measuring"
                if len(part) == 1
                else f"{part[0].id} … {part[-1].id}: measuring {len(part)}"
            )
            step = Step(
                name, "validate" if results == CHOOSING else "evaluate", says,
                tuple(self.command(model, results, tasks or model.tasks, metadata or {}) for model in part),
                self._makers(part),
                self._given(part),
                creates=tuple(self.path(results, model.id) for model in part),
                threads=self.config.machine.evaluation_threads, gpus=self.config.machine.gpus_per_evaluation,
                together=True,
            )  # fmt: skip
            found |= dict.fromkeys((model.id for model in part), self.plan.add(step))
        return found

    def _makers(self, models: Sequence[Model]) -> tuple[str, ...]:
        """Steps that make models and the tokenizer, or those that come before all others."""
        names = [*(model.step for model in models), self.tokenizer[1]]
        return tuple(dict.fromkeys(name for name in names if name)) or self._before()

    def _given(self, models: Sequence[Model]) -> tuple[str, ...]:
        """The user's own files that models are loaded from, prompts, and lm-eval tasks."""
        folders = [path for model in models if not model.step for path in (model.pretrained, model.peft) if path]
        files = [Path(path) / name for path in dict.fromkeys([*folders, self.config.model]) for name in WEIGHTS]
        prompts = self.config.evaluate.metadata.get("safety_data")
        if prompts and (Path(self.plan.cwd) / str(prompts)).is_dir():
            files += [Path(str(prompts)) / p.name for p in sorted((Path(self.plan.cwd) / str(prompts)).iterdir())]
        files += self._tasks()
        mine = [file for file in files if not self.plan.holds(file)]
        return tuple(str(file) for file in mine if (Path(self.plan.cwd) / file).is_file())

    @cache  # noqa: B019  # lives as long as the plan is made
    def _tasks(self) -> tuple[Path, ...]:
        """The files of the user's own lm-eval tasks, and those that the configuration names."""
        evaluate = self.config.evaluate
        files = [Path(path) for path in evaluate.inputs]
        if folder := evaluate.options.get("include_path"):
            found = sorted((Path(self.plan.cwd) / str(folder)).rglob("*"))
            files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
        return tuple(files)

    def _before(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.config.prepare)

    def choice(self, row: str, label: str, group: str, step: str, tried: Mapping[float, str], task: Task) -> None:
        """A row whose strength is chosen on the validation prompts.

        Args:
            row: Id of the row.
            label: What the tables call the method.
            group: Of the row.
            step: Step that makes the merged models.
            tried: Folder of the merged model for each strength.
            task: Section of the fine-tuned model's task.

        Raises:
            UserError: If the configuration names no validation prompts.
        """
        choose = self.config.evaluate.choose
        if not choose.metadata and choose.tasks is None:
            raise UserError(
                f"{row}: {len(tried)} strengths to choose among, expected evaluate.choose with the prompts to choose "
                "on (metadata or tasks), others than the reported ones; add it, or give one strength"
            )
        tasks = tuple(choose.tasks or task.evaluate or self.config.evaluate.tasks)
        models = {
            strength: Model(f"{row}-s{strength:g}", label, group, "rival", row, 0, step, folder, None, tasks)
            for strength, folder in tried.items()
        }
        self.plan.choices[row] = {model.id: strength for strength, model in models.items()}
        self._tried += models.values()
        method = row.rpartition("-")[2]
        self.plan.models[row] = Model(
            row, label, group, "rival", method, 0, f"choose-{row}", self.path("models", row), None,
            tuple(task.evaluate or self.config.evaluate.tasks), choice=self.path("choices", f"{row}.json"),
        )  # fmt: skip

    def choices(self) -> None:
        """Steps that measure all strengths on the validation prompts and take the best."""
        steps = self.evaluations(self._tried, CHOOSING, metadata=self.config.evaluate.choose.metadata)
        for row, tried in self.plan.choices.items():
            model = self.plan.models[row]
            command = ("python", "-m", "realign_plugin.study.choose", self.path(PLAN), row)
            step = Step(
                f"choose-{row}", "choose", f"{row}: choosing among {len(tried)} strengths", (command,),
                tuple(dict.fromkeys(steps[name] for name in tried)),
                files={self.path("choices", f"{row}.rule.json"): self._rule()},
                creates=(str(model.choice), model.pretrained),
            )  # fmt: skip
            self.plan.add(step)

    def _rule(self) -> str:
        """What a choice goes by, so that it is made again when that changes."""
        evaluate = self.config.evaluate
        return _json({"choose": evaluate.choose.model_dump(), "columns": [c.model_dump() for c in evaluate.columns]})

    def tables(self) -> None:
        """Measure all models that the plan has, and make the main tables of them."""
        self.choices()
        models = list(self.plan.models.values())
        self.main = self.evaluations(models)
        needs = tuple(dict.fromkeys(self.main.values()))
        ids = tuple(model.id for model in models)
        main = TableSpec("main", "Before and after", "Each model on both axes, safety and skill.", ids)
        self.plan.targets["main"] = [self.table(main, needs)]
        if not self.config.evaluate.columns:
            sets = TableSpec("sets", "Set by set", "Every prompt set and task by itself.", ids, detail=True)
            self.plan.targets["main"].append(self.table(sets, needs))

    def table(self, spec: TableSpec, needs: tuple[str, ...]) -> str:
        """A step that makes a table.

        Args:
            spec: The table.
            needs: Steps that measure its rows.
        """
        self.plan.tables[spec.name] = spec
        models = [self.plan.models[name] for name in spec.models]
        rows = {m.id: [m.label, m.role, self.plan.groups.get(m.group, m.group)] for m in models}
        columns = [column.model_dump() for column in self.config.evaluate.columns]
        what = {"rows": rows, "columns": columns, "title": spec.title, "description": spec.description}
        step = Step(
            f"table-{spec.name}", "table", f"{spec.name}: table of {len(spec.models)} models",
            (("python", "-m", "realign_plugin.study.tables", self.path(PLAN), spec.name),), needs,
            files={self.path("tables", f"{spec.name}.rows.json"): _json(what)},
            creates=(self.path("tables", f"{spec.name}.json"), self.path("tables", f"{spec.name}.md")),
        )  # fmt: skip
        return self.plan.add(step)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
