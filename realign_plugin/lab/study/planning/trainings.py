"""The trainings of a plan: the study's, completed from the recipes, and the user's own steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.lab.records import Training
from realign_plugin.lab.study.config import catalogue
from realign_plugin.lab.study.config.catalogue import Recipe
from realign_plugin.lab.study.config.models import Prepare
from realign_plugin.lab.study.config.sections import Arguments, Names
from realign_plugin.lab.study.planning.commands import Shell, Train, Words
from realign_plugin.lab.study.planning.steps import Kind, Step, distinct

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder

MODELS: Final = (
    *("model_name_or_path", "adapter_name_or_path", "aligned_adapter", "task_adapters", "task_models"),
    *("ref_model", "ref_model_adapters", "reward_model", "reward_model_adapters"),
)
"""Options of a training that name models."""


@dataclass(frozen=True)
class Run:
    """A training that is to be completed from the recipes.

    Attributes:
        stem: Name of the step and of its folder in ``models/``, without the seed.
        kind: Of the step.
        title: What it does, in a few words.
        recipe: Where its arguments start from.
        datasets: LLaMA-Factory's names.
        arguments: Models and stage.
        changes: Further arguments, the later ones winning.
        needs: Steps that make its models.
        seed: Where it is one of several that differ in nothing else.
        suffix: What the name has behind the seed.
        threads: Processor threads; default: the machine's for a training.
    """

    stem: str
    kind: Kind
    title: str
    recipe: Recipe
    datasets: Names
    arguments: Arguments
    changes: Sequence[Mapping[str, Any]]
    needs: Sequence[str]
    seed: int | None = None
    suffix: str = ""
    threads: int | None = None

    @property
    def id(self) -> str:
        """Its name in files."""
        return self.stem + ("" if self.seed is None else f"-{self.seed}") + self.suffix


def train(builder: Builder, run: Run) -> str:
    """Add a step for a training by the stock command; its name.

    Raises:
        UserError: If its data are unknown, or its seed is that of another one that differs in nothing else.
    """
    config, name = builder.config, run.id
    found = {"output_dir": builder.path("models", name), **run.arguments, "dataset": ",".join(run.datasets)}
    found |= {"dataset_dir": str(config.data_folder), "seed": run.seed or 0, "template": config.template}
    found |= builder.silent | catalogue.recipe(run.recipe, config.train, config.adaptation, run.changes)
    evaluated = _names(found.get("eval_dataset"), f"{name}: eval_dataset")
    if "skill_dataset" in found:
        skill = _names(found["skill_dataset"], f"{name}: skill_dataset")
        held = [one for one in evaluated if one.removesuffix("_validation") in skill and one not in skill]
        found["skill_dataset"] = ",".join([*skill, *held])
    data, datasets = builder.datasets.needs(run.datasets, f"{name}: dataset"), builder.datasets
    needs = (*data, *datasets.needs(evaluated, f"{name}: eval_dataset"), *run.needs)
    training = described(name, f"{name}: {run.title}", found)
    if run.seed is not None:
        training = training.model_copy(update={"name": f"{run.stem}{run.suffix}: {run.title}", "seed": run.seed})
        _check_seed(builder, training, found["seed"])
    models = [path for key in MODELS for path in _paths(found.get(key))]
    read = datasets.given([*run.datasets, *evaluated])
    inputs = (*builder.given(*distinct(models)), *read.files)
    return add(builder, training, run.kind, found, needs, inputs, threads=run.threads, entries=read.entries)


def _check_seed(builder: Builder, training: Training, seed: Any) -> None:
    """Refuse a training that is the same as that of another seed: the arguments name one for both.

    Raises:
        UserError: With the seed.
    """
    for step in builder.plan.steps.values():
        known, (first, *_) = step.training, step.does
        if known is None or (known.name, known.seed == training.seed) != (training.name, False):
            continue
        if isinstance(first, Train) and first.arguments["seed"] == seed:
            raise UserError(
                f"{training.id}: its arguments name seed {seed}, as those of {known.id} do, expected one for each of "
                "`seeds`; leave `seed` out of train, and use `seeds`"
            )


def described(name: str, title: str, arguments: Arguments) -> Training:
    """A training as the report reads it."""
    folder, stage = str(arguments["output_dir"]), str(arguments.get("stage", ""))
    return Training(id=name, label=title, folder=folder, stage=stage)


def add(
    builder: Builder, training: Training, kind: Kind, arguments: Arguments, needs: Iterable[str],
    inputs: Sequence[str] = (), creates: Sequence[str] = (), threads: int | None = None, entries: Words = (),
) -> str:  # fmt: skip
    """Add a step for ``llamafactory-cli train`` with just these arguments; its name."""
    does, needs = Train(builder.path("steps", f"{training.id}.yaml"), arguments), distinct(needs)
    # Such as that of `deepspeed`.
    named = (value for value in arguments.values() if isinstance(value, str) and _is_file(builder, value))
    inputs = (*inputs, *(file for file in named if file not in inputs))
    step = Step(
        training.id, kind, training.label, (does,), needs, inputs,
        creates=distinct([training.folder, *creates]), training=training, entries=entries,
        threads=threads or builder.threads, gpus=builder.config.machine.gpus_per_training,
    )  # fmt: skip
    return builder.plan.add(step)


def _paths(value: Any) -> list[str]:
    """Paths as an option names them: a list, or a text with commas."""
    return value.split(",") if isinstance(value, str) else [str(one) for one in value or []]


def _is_file(builder: Builder, value: str) -> bool:
    return os.path.isfile(os.path.join(builder.plan.cwd, value))


def own_steps(builder: Builder, entries: Iterable[Prepare], kind: Kind, needs: tuple[str, ...]) -> tuple[str, ...]:
    """The user's own steps, one after the other.

    Returns:
        Their names.

    Raises:
        UserError: If a section says neither or both of command and training.
    """
    names: tuple[str, ...] = ()
    for entry in entries:
        what, before = f"{kind}.{entry.name}", (*needs, *names)
        title = entry.title or f"{entry.name}: {entry.command or 'training'}"
        if (entry.command is None) == (entry.train is None):
            raise UserError(f"{what}: expected either a command or train, not both; give one")
        if entry.train is None:
            step = Step(
                entry.name, kind, title, (Shell(str(entry.command)),), before, tuple(entry.inputs),
                creates=tuple(entry.creates), threads=entry.threads or 1,
            )  # fmt: skip
            names = (*names, builder.plan.add(step))
            continue
        if "output_dir" not in entry.train:
            raise UserError(f"{what}.train: output_dir is missing, expected the folder of the model; add it")
        training = described(entry.name, title, entry.train)
        name = add(builder, training, kind, entry.train, before, entry.inputs, entry.creates, entry.threads)
        names = (*names, name)
    return names


def _names(value: Any, what: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    raise UserError(f"{what}: {value!r}, expected names of data sets; give a list")
