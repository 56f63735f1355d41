"""The data sets of a plan: steps that make them, what a task's realignment learns from, and the user's own files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from realign_plugin.data.dataset_info import INFO, read_info
from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.study.config.data import SOURCES, DataSet
from realign_plugin.lab.study.config.sections import Names
from realign_plugin.lab.study.planning.commands import Line, OnPolicy
from realign_plugin.lab.study.planning.steps import Step

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder

Lesson = Literal["pairs", "safety", "skill"]
MADE: Final[dict[Lesson, str]] = {"pairs": "_pairs", "safety": "", "skill": "_skill"}
"""The data sets that on-policy data consist of: the suffix of each name, by what it teaches."""


@dataclass(frozen=True)
class Given:
    """What a training reads of data sets that are the user's.

    Attributes:
        files: Their files.
        entries: Their entries in ``dataset_info.json``, as JSON; but for the files' names.
    """

    files: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()


class Datasets:
    """Adds data sets to a plan, and finds those that trainings name."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.config = builder.config
        self.plan = builder.plan
        self.folder = builder.config.data_folder

    def add(self, name: str, dataset: DataSet) -> str:
        """A step for a data set of ``realign data``.

        Raises:
            UserError: If its source is a file that is missing.
        """
        words = ["realign", "data", dataset.kind, str(self.folder), "--name", name]
        words += ["--overwrite"] if self._replaces else []
        for key, value in dataset.model_dump(exclude={"kind"}, exclude_none=True).items():
            words += [f"--{key}", str(value)]
        inputs = self._files([dataset.source] if dataset.source else [], f"data.{name}.source")
        refusals = getattr(dataset, "refusals", None)
        inputs += self._files([refusals] if refusals else [], f"data.{name}.refusals")
        counted = self.given([dataset.of]).files if dataset.of and dataset.of not in self.config.data else ()
        needs = self.builder.before + ((f"data-{dataset.of}",) if dataset.of in self.config.data else ())
        creates = (str(self.folder / f"{name}.jsonl"),)
        return self.plan.add(
            Step(
                f"data-{name}",
                "data",
                f"{name}: data",
                (Line(tuple(words)),),
                needs,
                (*inputs, *counted),
                creates=creates,
                newly_watched=counted,
            )
        )

    def add_on_policy(self, name: str, dataset: DataSet) -> str:
        """A step in which the aligned model and a fine-tuned one answer prompts.

        Raises:
            UserError: If a source is missing, or models are whole checkpoints.
        """
        builder, config = self.builder, self.config
        if builder.full:
            raise UserError(
                f"data.{name}: on_policy asks LoRA adapters, but adaptation is full; use the command on models that "
                "are merged, or leave it out"
            )
        path, step = builder.tuned[self.task_of(name)]
        sources = {}
        needs = [*builder.before, step, builder.aligned_step]
        inputs = builder.given(config.model, path, builder.aligned_path)
        for option in SOURCES:
            given = getattr(dataset, option) or []
            needs += [f"data-{source}" for source in given if source in config.data]
            paths = [self._source(source, f"data.{name}.{option}") for source in given]
            if option == "evaluation":
                paths = list(dict.fromkeys([*paths, *builder.measuring.prompt_files()]))
            inputs += self._files([path for path in paths if not self.plan.holds(path)], f"data.{name}.{option}")
            sources[option] = paths
        options = dataset.model_dump(exclude={"kind", "task", *SOURCES}, exclude_none=True)
        does = OnPolicy(
            str(self.folder), name, self._replaces, config.model, path, builder.aligned_path, sources, options
        )
        creates = [str(self.folder / f"{made}.jsonl") for made in self._made(name)]
        return self.plan.add(
            Step(
                f"data-{name}", "on_policy", f"{name}: what the aligned and the fine-tuned model answer",
                (does,), tuple(dict.fromkeys(filter(None, needs))), inputs, creates=tuple(creates),
                threads=builder.evaluation_threads, gpus=config.machine.gpus_per_evaluation,
            )
        )  # fmt: skip

    @property
    def _replaces(self) -> bool:
        """Whether data sets are replaced: not in a folder of the user's."""
        return self.config.dataset_dir is None

    def _source(self, source: str, what: str) -> str:
        """A source of prompts as the command takes it: of a data set of the study its file."""
        if source not in self.config.data:
            return source
        if self.config.data[source].kind == "on_policy":
            raise UserError(f"{what}: {source} is on-policy data, expected other prompts; name a file")
        return str(self.folder / f"{source}.jsonl")

    def _files(self, sources: Iterable[str], what: str) -> tuple[str, ...]:
        """The sources that are files.

        Raises:
            UserError: If one looks like a file and is missing.
        """
        found = []
        for source in sources:
            if (Path(self.plan.cwd) / source).is_file():
                found.append(source)
            elif not self.builder.before and _looks_like_file(source):
                raise UserError(f"{what}: {source} is missing, expected a file or a hub id; check the path")
        return tuple(found)

    def task_of(self, name: str) -> str:
        """The task whose fine-tuned model answers for an on-policy data set.

        Raises:
            UserError: If it is unknown, or there are several and none is named.
        """
        task, tasks = self.config.data[name].task, list(self.config.tasks)
        if task is not None:
            check_choice(f"data.{name}.task", task, tasks)
            return task
        if len(tasks) > 1:
            raise UserError(f"data.{name}.task: is missing, expected one of {', '.join(tasks)}; add it")
        return tasks[0]

    def on_policy(self) -> Iterator[str]:
        """Names of the on-policy data sets."""
        return (name for name, dataset in self.config.data.items() if dataset.kind == "on_policy")

    def _made(self, name: str) -> list[str]:
        """The data sets that an on-policy one consists of."""
        asked = bool(self.config.data[name].skill)
        return [name + behind for lesson, behind in MADE.items() if asked or lesson != "skill"]

    def learnt(self, task: str, lesson: Lesson) -> Names:
        """The data sets that a task's realignment learns from: the task's, the study's, or its own on-policy ones."""
        given = getattr(self.config.tasks[task], lesson) or getattr(self.config.realign, lesson)
        mine = [name for name in self.on_policy() if self.task_of(name) == task]
        made = [name + MADE[lesson] for name in mine if name + MADE[lesson] in self._made(name)]
        return list(given or made)

    def needs(self, names: Iterable[str], what: str) -> tuple[str, ...]:
        """Steps that make data sets.

        Raises:
            UserError: If a data set is neither made by the study nor in ``dataset_info.json``.
        """
        needs = list(self.builder.before)
        file = Path(self.plan.cwd) / self.folder / INFO
        for name in names:
            maker = self.maker(name)
            if maker is not None:
                made = self.config.data.get(maker)
                if made is not None and name.endswith("_validation") and name != maker and not made.held_back:
                    raise UserError(f"{what}: {name}, but data.{maker} holds nothing back; give it `validation: 0.05`")
                needs.append(f"data-{maker}")
                continue
            late = [own for own in self.on_policy() if name in self._made(own)]
            if late and f"data-{late[0]}" not in self.plan.steps:
                raise UserError(
                    f"{what}: {name} is made of answers of the fine-tuned models, expected data that are there "
                    "before; name another data set"
                )
            if file.exists() or not self.builder.before:
                check_choice(what, name, self._known(file.parent) or ["(none: data is empty)"])
        return tuple(dict.fromkeys(needs))

    def _known(self, folder: Path) -> list[str]:
        """Names that may be given: those in ``dataset_info.json``, and those that the study makes."""
        known = dict.fromkeys(read_info(folder))
        for own, how in self.config.data.items():
            made = self._made(own) if how.kind == "on_policy" else [own]
            known |= dict.fromkeys(made) | dict.fromkeys(f"{name}_validation" for name in made if how.held_back)
        return list(known)

    def maker(self, name: str) -> str | None:
        """The study's data set that a name of LLaMA-Factory's belongs to: itself, its validation or chosen half."""
        for stem in (name, name.removesuffix("_validation"), name.removesuffix("_chosen")):
            if f"data-{stem}" in self.plan.steps:
                return stem
            for own in self.on_policy():
                if f"data-{own}" in self.plan.steps and stem in self._made(own):
                    return own
        return None

    def given(self, names: Iterable[str]) -> Given:
        """What is read of data sets that are not made by the study."""
        folder, cwd = self.folder, Path(self.plan.cwd)
        if self.plan.made_here(folder / INFO):
            return Given()
        known = read_info(cwd / folder)
        entries = {
            name: known[name] for name in names if self.maker(name) is None and isinstance(known.get(name), dict)
        }
        files: list[Path] = []
        for entry in entries.values():
            for place in (folder / str(entry[key]) for key in ("file_name", "script_url") if entry.get(key)):
                inside = sorted(file.name for file in (cwd / place).iterdir()) if (cwd / place).is_dir() else []
                files += [place / name for name in inside] or [place]
        # The file itself is among the inputs: which one it is, its size and time tell.
        rest = {name: {k: v for k, v in entry.items() if k != "file_name"} for name, entry in entries.items()}
        return Given(
            tuple(str(file) for file in files if (cwd / file).is_file()),
            tuple(json.dumps({name: entry}, sort_keys=True) for name, entry in rest.items() if entry),
        )


def _looks_like_file(source: str) -> bool:
    return source.endswith((".json", ".jsonl", ".csv", ".gz", ".parquet")) or source.startswith((".", "/"))
