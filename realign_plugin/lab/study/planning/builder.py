"""What a plan is built with: paths, trainings, merges, and the resulting models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.chat_templates import model_can_think
from realign_plugin.errors import UserError
from realign_plugin.lab.records import Model, Role
from realign_plugin.lab.study.config import catalogue
from realign_plugin.lab.study.config.sections import Arguments
from realign_plugin.lab.study.config.study import StudyConfig
from realign_plugin.lab.study.planning import merges
from realign_plugin.lab.study.planning.commands import Fuse, Merge, Transfer, Words
from realign_plugin.lab.study.planning.datasets import Datasets
from realign_plugin.lab.study.planning.inputs import model_files
from realign_plugin.lab.study.planning.measuring import Measuring
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Kind, Step, distinct

NAME: Final = re.compile(r"[A-Za-z0-9_]+")
RESERVED: Final = ("base", "aligned", "start", "fused")
"""Names of models and groups that every study has."""

Place = tuple[str, str | None]
"""A model, and the adapter on it."""


class Builder:
    """Adds steps and models to a plan.

    Attributes:
        config: The configuration.
        plan: What has been planned.
        full: Whether models are whole checkpoints, not adapters.
        methods: All methods, completed from the catalogue.
        threads: Processor threads of a training.
        evaluation_threads: Processor threads of an evaluation.
        datasets: Adds data sets.
        measuring: Adds evaluations, choices and tables.
        silent: What turns the thinking off, in trainings and measurements, where answers are made without it.
        before: Steps of the user's own that come before all others.
        aligned_path: The aligned adapter or model; None where ``model`` itself is aligned.
        aligned_step: Step that makes it; empty: it is given.
        tuned: Path and step of each fine-tuned model, by its id.
    """

    def __init__(self, config: StudyConfig, cwd: Path, share: int = 1) -> None:
        """Start a plan.

        Args:
            config: The configuration.
            cwd: Folder that its relative paths count from.
            share: Processor threads of a step where the configuration gives none.

        Raises:
            UserError: If names are at fault, or there is no task.
        """
        self.config = config
        self.threads = config.machine.threads or share
        self.evaluation_threads = config.machine.evaluation_threads or share
        self.plan = Plan(str(config.root), str(cwd), config.model_dump(mode="json"))
        self.full = config.adaptation == "full"
        catalogue.check_recipes(config.train)
        own = [entry.name for entry in (*config.prepare, *config.finish)]
        fusions = config.fusion.methods if config.fusion is not None else {}
        for name in [*config.tasks, *config.methods, *config.data, *own, *fusions]:
            if not NAME.fullmatch(name):
                raise UserError(
                    f"{name!r}: is not a name for a task, method, data set or step, expected letters, digits and _; "
                    "rename it"
                )
        for name in RESERVED:
            if name in config.tasks:
                raise UserError(f"tasks.{name}: every study has a model or group of that name; rename the task")
        self.methods = {name: catalogue.method(name, given) for name, given in config.methods.items()}
        if not config.tasks:
            raise UserError("tasks: is empty, expected at least one fine-tuned model; add one")
        self.before: tuple[str, ...] = ()
        self.aligned_path: str | None = None
        self.aligned_step = ""
        self.tuned: dict[str, tuple[str, str]] = {}
        self.datasets = Datasets(self)
        made = any(dataset.kind == "on_policy" for dataset in config.data.values())
        thinks = made and not self._is_made_first(config.model) and model_can_think(config.model, cwd)
        self.silent = {"enable_thinking": False} if thinks else {}
        self.measuring = Measuring(self.plan, config, self.evaluation_threads, self.silent)

    def _is_made_first(self, model: str) -> bool:
        """Whether a step before the study makes a model, which is then not there yet when it is planned first."""
        first = self.config.prepare
        made = [name for one in first for name in (*one.creates, (one.train or {}).get("output_dir")) if name]
        folder, *others = (Path(os.path.abspath(Path(self.plan.cwd) / path)) for path in (model, *made))
        inside = bool(first) and self.plan.holds(folder)
        return inside or any(folder in (one, *one.parents) or one in folder.parents for one in others)

    def path(self, *parts: str) -> str:
        """A path below the study's folder, as commands name it."""
        return str(Path(self.config.root, *parts))

    def local(self, path: str) -> str:
        """A path as mergekit is to read it: never as a name on the hub, if it is a folder or will be one.

        Raises:
            UserError: If mergekit would split it.
        """
        inside = Path(path).is_relative_to(self.config.root) or (Path(self.plan.cwd) / path).exists()
        if "+" in path or ("@" in path and inside):
            raise UserError(f"{path}: has a + or @, at which mergekit splits, expected a path without; rename it")
        return f"./{path}" if inside and not Path(path).is_absolute() and not path.startswith(".") else path

    def given(self, *paths: str | None) -> tuple[str, ...]:
        """Files by which a change of a given model is noticed; empty for models that the study makes."""
        folders = [Path(path) for path in paths if path and not Path(path).is_relative_to(self.config.root)]
        return tuple(str(file) for folder in folders for file in model_files(folder, Path(self.plan.cwd)))

    def merge_step(
        self, name: str, kind: Kind, title: str, documents: Mapping[str, merges.Document], needs: Sequence[str],
        inputs: tuple[str, ...] = (),
    ) -> str:  # fmt: skip
        """A step that merges by the stock command.

        Args:
            name: Of the step.
            kind: Of the step.
            title: Printed when it starts.
            documents: mergekit documents by the folder of the merged model.
            needs: Steps that make its models.
            inputs: The user's files that it reads.
        """
        cache = self.path("lora-merge-cache", name)
        does = tuple(
            Merge(self.path("steps", f"{Path(out).name}.yaml"), document, out, cache)
            for out, document in documents.items()
        )
        step = Step(
            name, kind, title, does, distinct(needs), inputs, creates=tuple(documents), scratch=(cache,),
            together=True, threads=self.evaluation_threads,
        )  # fmt: skip
        return self.plan.add(step)

    def command(
        self, name: str, kind: Kind, title: str, does: Fuse | Transfer, needs: Sequence[str], inputs: Words = ()
    ) -> str:
        """A step of one command that makes one folder."""
        return self.plan.add(Step(name, kind, title, (does,), distinct(needs), inputs, creates=(does.out,)))

    def model(self, name: str, label: str, group: str, role: Role, step: str, place: Place, **more: Any) -> Model:
        """A model that is measured.

        Args:
            name: Its id.
            label: What the tables call it, without the seed.
            group: Task, ``start`` or ``fused``.
            role: What it is.
            step: The step that makes it; empty: it is given.
            place: Model and adapter.
            more: ``tasks`` in place of the study's, ``seed`` where it is one of several, and further facts of
                ``Model``.

        Raises:
            UserError: If another model has that id.
        """
        if name in self.plan.models:
            raise UserError(f"{name}: two models have this name, expected different ones; rename a task or a method")
        tasks, seed = more.pop("tasks", None) or self.config.evaluate.tasks, more.pop("seed", None)
        if seed is not None:
            more["name"], label = label, label + self.seed_label(seed)
        facts: Arguments = {"method": "", "tasks": tuple(tasks), "seed": seed or 0} | more
        pretrained, peft = place
        found = Model(
            id=name, label=label, group=group, role=role, step=step, pretrained=pretrained, peft=peft, **facts
        )
        self.plan.models[name] = found
        return found

    def place(self, path: str | None) -> Place:
        """Model and adapter of a model that is either."""
        return (path or self.config.model, None) if self.full else (self.config.model, path)

    def stage(self, stage: str, start: str | None) -> Arguments:
        """Arguments of a stock training that goes on from an adapter or a model; DPO's reference is that start."""
        if self.full:
            model = start or self.config.model
            found: Arguments = {"model_name_or_path": model, "stage": stage, "finetuning_type": "full"}
            return found | ({"ref_model": model} if stage == "dpo" else {})
        found = {"model_name_or_path": self.config.model, "stage": stage, "finetuning_type": "lora"}
        if start is not None:
            found["adapter_name_or_path"] = start
            if stage == "dpo":
                found |= {"ref_model": self.config.model, "ref_model_adapters": start}
        return found

    def seed_label(self, seed: int) -> str:
        """The part of a label that names a seed; empty for the first."""
        return "" if seed == self.config.seeds[0] else f", seed {seed}"

    def check_folder(self, path: Path, what: str) -> None:
        """Refuse a given folder that is missing, unless a step before the study makes it, or that has a comma.

        Raises:
            UserError: If it is missing, or LLaMA-Factory would split it.
        """
        if "," in str(path):
            raise UserError(f"{what}: {path} has a comma, at which LLaMA-Factory splits, expected none; rename it")
        if not self.before and not (Path(self.plan.cwd) / path).is_dir():
            raise UserError(f"{what}: {path} is missing, expected a folder; check the path")
