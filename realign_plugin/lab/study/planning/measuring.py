"""The measuring part of a plan: evaluations by lm-eval, the choice of strengths, and the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation.data import find_file
from realign_plugin.evaluation.prompt_sets import prompt_sets
from realign_plugin.evaluation.sources import SOURCES
from realign_plugin.lab.records import Model
from realign_plugin.lab.study.config.sections import Arguments
from realign_plugin.lab.study.config.study import StudyConfig
from realign_plugin.lab.study.planning import references
from realign_plugin.lab.study.planning.commands import Line, Measure
from realign_plugin.lab.study.planning.inputs import compared_with, model_files
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.references import Reference
from realign_plugin.lab.study.planning.steps import Kind, Step, TableSpec, distinct

PLAN: Final = "plan.json"
RESULTS: Final = "results"
"""Folder of the main results."""
CHOOSING: Final = "results-choose"
"""Folder of the results on validation prompts."""


class Measuring:
    """Adds evaluations, choices and tables to a plan.

    Attributes:
        plan: The plan.
        config: The configuration.
        threads: Processor threads of an evaluation.
        main: Step that measures each model of the main tables, by the model's id.
        silent: Further ``--model_args`` of all models, beneath the configuration's.
        tokenizer: Folder of the tokenizer that all models are measured with, and the step that makes it.
    """

    def __init__(self, plan: Plan, config: StudyConfig, threads: int, silent: Arguments | None = None) -> None:
        self.plan = plan
        self.silent = silent or {}
        self.config = config
        self.threads = threads
        self.main: dict[str, str] = {}
        self.tokenizer = (config.model, "")
        self._tried: list[Model] = []

    def path(self, *parts: str) -> str:
        """A path below the study's folder, as commands name it."""
        return str(Path(self.config.root, *parts))

    def command(
        self, model: Model, results: str, tasks: Sequence[str], metadata: Arguments, reference: Reference | None = None
    ) -> Measure:
        """The command that measures a model.

        Args:
            model: The model.
            results: Folder of the results, below the study's.
            tasks: lm-eval tasks.
            metadata: On top of the configuration's.
            reference: The samples that its answers are compared with.
        """
        evaluate = self.config.evaluate
        given = {"pretrained": model.pretrained, "peft": model.peft, "tokenizer": self.tokenizer[0]}
        compared = references.metadata(reference) if reference is not None else {}
        return Measure(
            model_args=given | self.silent | evaluate.model_args,
            tasks=tuple(tasks),
            out=self.path(results, model.id),
            chat_template=evaluate.chat_template,
            options=evaluate.options,
            metadata=compared | evaluate.metadata | metadata,
        )

    def evaluations(
        self,
        models: Sequence[Model],
        results: str = RESULTS,
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
        found: dict[str, str] = {}
        reference = self._reference(models, results, tasks)
        others = [model for model in models if reference is None or model.id != reference.model.id]
        if len(others) < len(models) and reference is not None:  # it is measured first
            found |= self._evaluation([reference.model], results, tasks, metadata or {}, None)
            reference = replace(reference, step=found[reference.model.id])
        size = self.config.evaluate.models_per_job
        for start in range(0, len(others), size):
            found |= self._evaluation(others[start : start + size], results, tasks, metadata or {}, reference)
        return found

    def _evaluation(
        self, part: Sequence[Model], results: str, tasks: Sequence[str], metadata: Arguments, known: Reference | None
    ) -> dict[str, str]:
        """A step that measures models in one process."""
        first, name = part[0].id, f"evaluate{results.removeprefix(RESULTS)}-{part[0].id}"
        title = f"{first} … {part[-1].id}: measuring {len(part)}" if len(part) > 1 else f"{first}: measuring"
        with_it = {model.id: known for model in part if known and self._compared(tasks or model.tasks, known, tasks)}
        does = tuple(self.command(m, results, tasks or m.tasks, metadata, with_it.get(m.id)) for m in part)
        needs = (*self._makers(part), *distinct(one.step for one in with_it.values()))
        creates, gpus = tuple(command.out for command in does), self.config.machine.gpus_per_evaluation
        inputs, named = self._given(part, metadata), self._named(metadata)
        kind: Kind = "validate" if results == CHOOSING else "evaluate"
        step = Step(
            name, kind, title, does, needs, (*inputs, *named), creates=creates, together=True, threads=self.threads,
            gpus=gpus, newly_watched=tuple(file for file in named if file not in inputs),
        )  # fmt: skip
        return dict.fromkeys((model.id for model in part), self.plan.add(step))

    def _reference(self, models: Sequence[Model], results: str, tasks: Sequence[str]) -> Reference | None:
        """The reference of the comparisons: one of the models, or of the main table's; None without comparison."""
        model = references.reference_model(self.plan.models)
        if not self.config.evaluate.agreement or "reference" in self.config.evaluate.metadata or model is None:
            return None
        found = Reference(model, self.path(results, model.id), self.main.get(model.id, ""))
        there = model in models or (results == RESULTS and model.id in self.main)
        others = [tasks or other.tasks for other in models if other is not model]
        return found if there and any(self._compared(asked, found, tasks) for asked in others) else None

    def _compared(self, asked: Sequence[str], known: Reference, tasks: Sequence[str]) -> bool:
        include = self.config.evaluate.options.get("include_path")
        return references.compared(asked, tasks or known.model.tasks, Path(str(include)) if include else None)

    def prompt_files(self) -> list[str]:
        """The user's files among our prompts that models are measured with."""
        folder, evaluate = self.config.evaluate.metadata.get("safety_data"), self.config.evaluate
        if not folder or not (Path(self.plan.cwd) / str(folder)).is_dir() or self.plan.holds(str(folder)):
            return []
        tasks = [*evaluate.tasks, *(name for task in self.config.tasks.values() for name in task.evaluate or [])]
        include = evaluate.options.get("include_path")
        parts = prompt_sets(tasks, Path(str(include)) if include else None)
        names = [SOURCES[part.source].files for part in parts if part.source in SOURCES]
        files = [find_file(Path(self.plan.cwd) / str(folder), one) for one in names]
        return list(dict.fromkeys(str(Path(str(folder)) / file.name) for file in files if file is not None))

    def _makers(self, models: Sequence[Model]) -> tuple[str, ...]:
        """Steps that make models and the tokenizer, or those that come before all others."""
        names = [*(model.step for model in models), self.tokenizer[1]]
        return distinct(names) or tuple(entry.name for entry in self.config.prepare)

    def _given(self, models: Sequence[Model], metadata: Arguments) -> tuple[str, ...]:
        """The user's own files that models are loaded from, prompts, and lm-eval tasks."""
        folders = [path for model in models if not model.step for path in (model.pretrained, model.peft) if path]
        cwd = Path(self.plan.cwd)
        files = [
            file for path in dict.fromkeys([*folders, self.config.model]) for file in model_files(Path(path), cwd)
        ]
        prompts = (self.config.evaluate.metadata | metadata).get("safety_data")
        if prompts and (Path(self.plan.cwd) / str(prompts)).is_dir():
            files += [Path(str(prompts)) / p.name for p in sorted((Path(self.plan.cwd) / str(prompts)).iterdir())]
        files += self._tasks()
        mine = [file for file in files if not self.plan.holds(file)]
        return tuple(str(file) for file in mine if (Path(self.plan.cwd) / file).is_file())

    def _named(self, metadata: Arguments) -> tuple[str, ...]:
        """The user's own files of what is named besides models."""
        evaluate, cwd = self.config.evaluate, Path(self.plan.cwd)
        files = compared_with(evaluate.model_args, evaluate.metadata | metadata, cwd)
        return distinct(str(file) for file in files if not self.plan.holds(file) and (cwd / file).is_file())

    @cache  # noqa: B019  # lives as long as the plan is made
    def _tasks(self) -> tuple[Path, ...]:
        """The files of the user's own lm-eval tasks, and those that the configuration names."""
        evaluate = self.config.evaluate
        files = [Path(path) for path in evaluate.inputs]
        if folder := evaluate.options.get("include_path"):
            found = sorted((Path(self.plan.cwd) / str(folder)).rglob("*"))
            files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
        return tuple(files)

    def choice(self, group: str, method: str, label: str, step: str, tried: Mapping[float, str]) -> None:
        """A row whose strength is chosen on the validation prompts.

        Args:
            group: The task, which is the row's group.
            method: The method's name.
            label: What the tables call the method.
            step: Step that makes the merged models.
            tried: Folder of the merged model for each strength.

        Raises:
            UserError: If the configuration names no validation prompts.
        """
        row, choose = f"{group}-{method}", self.config.evaluate.choose
        if not choose.metadata and choose.tasks is None:
            raise UserError(
                f"{row}: {len(tried)} strengths to choose among, expected evaluate.choose with the prompts to choose "
                "on (metadata or tasks), others than the reported ones; add it, or give one strength"
            )
        reported = tuple(self.config.tasks[group].evaluate or self.config.evaluate.tasks)
        model = Model(
            id=row,
            label=label,
            group=group,
            role="baseline",
            method=method,
            seed=0,
            step=f"choose-{row}",
            pretrained=self.path("models", row),
            tasks=reported,
            choice=self.path("choices", f"{row}.json"),
        )
        one: Arguments = {"step": step, "tasks": tuple(choose.tasks or reported), "choice": None}
        models = {
            strength: model.model_copy(update=one | {"id": f"{row}-s{strength:g}", "pretrained": folder})
            for strength, folder in tried.items()
        }
        self.plan.choices[row] = {model.id: strength for strength, model in models.items()}
        self._tried += models.values()
        self.plan.models[row] = model

    def choices(self) -> None:
        """Steps that measure all strengths on the validation prompts and take the best."""
        steps = self.evaluations(self._tried, CHOOSING, metadata=self.config.evaluate.choose.metadata)
        for row, tried in self.plan.choices.items():
            model = self.plan.models[row]
            command = Line(("python", "-m", "realign_plugin.lab.study.choose", self.path(PLAN), row))
            title, needs = f"{row}: choosing among {len(tried)} strengths", distinct(steps[name] for name in tried)
            texts = {self.path("choices", f"{row}.rule.json"): self._rule()}
            creates = (str(model.choice), model.pretrained)
            made = distinct(one.step for one in self._tried if one.id in tried)
            step = Step(
                f"choose-{row}", "choose", title, (command,), needs, texts=texts, creates=creates, hands_on=made
            )
            self.plan.add(step)

    def _rule(self) -> str:
        """What a choice depends on, so that it is made again when that changes."""
        evaluate = self.config.evaluate
        return _json({"choose": evaluate.choose.model_dump(), "columns": [c.model_dump() for c in evaluate.columns]})

    def tables(self) -> None:
        """Measure all models that the plan has, and make the main tables of them."""
        self.choices()
        models = list(self.plan.models.values())
        self.main = self.evaluations(models)
        needs = distinct(self.main.values())
        ids = tuple(model.id for model in models)
        main = TableSpec("main", "Before and after", "Each model on both axes, safety and skill.", ids)
        self.plan.targets["main"] = [self.table(main, needs)]
        if not self.config.evaluate.columns:
            sets = TableSpec("sets", "Set by set", "Every prompt set and task by itself.", ids, detail=True)
            self.plan.targets["main"].append(self.table(sets, needs))

    def table(self, spec: TableSpec, needs: tuple[str, ...]) -> str:
        """A step that makes a table."""
        self.plan.tables[spec.name] = spec
        models = [self.plan.models[name] for name in spec.models]
        rows = {m.id: [m.label, m.role, self.plan.groups.get(m.group, m.group)] for m in models}
        columns = [column.model_dump() for column in self.config.evaluate.columns]
        what = {"rows": rows, "columns": columns, "title": spec.title, "description": spec.description}
        line = Line(("python", "-m", "realign_plugin.lab.study.tables", self.path(PLAN), spec.name))
        texts = {self.path("tables", f"{spec.name}.rows.json"): _json(what)}
        creates = tuple(self.path("tables", f"{spec.name}.{suffix}") for suffix in ("json", "md"))
        title = f"{spec.name}: table of {len(spec.models)} models"
        return self.plan.add(Step(f"table-{spec.name}", "table", title, (line,), needs, texts=texts, creates=creates))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
