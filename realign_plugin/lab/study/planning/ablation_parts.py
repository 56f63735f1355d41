"""What the ablations of a study share: which tasks and methods, new models, their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.records import Model
from realign_plugin.lab.study.config.measuring import Pick, Poisoning
from realign_plugin.lab.study.config.sections import Names
from realign_plugin.lab.study.planning.steps import TableSpec, distinct

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder


@contextmanager
def new_models(builder: Builder) -> Iterator[list[Model]]:
    """The models that the block adds; measured when it ends."""
    before = set(builder.plan.models)
    found: list[Model] = []
    yield found
    found += [model for name, model in builder.plan.models.items() if name not in before]


def table(
    builder: Builder, name: str, title: str, description: str, tasks: Sequence[str], models: Sequence[Model]
) -> None:
    """A table of the tasks' own rows and the new ones; a target of its own."""
    new = {model.id for model in models}
    known = [
        model
        for model in builder.plan.models.values()
        if model.id in new
        or (model.id in builder.measuring.main and model.group in ("start", *tasks) and model.role != "baseline")
    ]
    steps = builder.measuring.evaluations(list(models))
    needs = [*steps.values(), *(builder.measuring.main[model.id] for model in known if model.id not in new)]
    order = {group: number for number, group in enumerate(("start", *builder.config.tasks))}
    rows = sorted(known, key=lambda model: order.get(model.group, len(order)))
    spec = TableSpec(name, title, description, tuple(model.id for model in rows))
    builder.plan.targets[name] = [builder.measuring.table(spec, distinct(needs))]


def picked(builder: Builder, section: Pick | Poisoning, what: str, kinds: Sequence[str]) -> tuple[Names, Names]:
    """Tasks and methods of an ablation: those it names, or the first that do."""
    config = builder.config
    tasks = section.tasks if section.tasks is not None else list(config.tasks)[:1]
    for task in tasks:
        check_choice(f"ablations.{what}.tasks", task, config.tasks)
    fitting = [name for name, how in builder.methods.items() if how.kind[0] in kinds]
    methods = section.methods if section.methods is not None else fitting[:1]
    for method in methods:
        check_choice(f"ablations.{what}.methods", method, fitting)
    if not methods:
        raise UserError(f"ablations.{what}: no method is {' or '.join(kinds)}, expected one in methods; add it")
    return tasks, methods


def check_realigned(builder: Builder, task: str, method: str, what: str) -> None:
    """Refuse a task that the method does not realign, or not with the study's first seed."""
    seeds = builder.methods[method].seeds
    if seeds is not None and builder.config.seeds[0] not in seeds:
        raise UserError(
            f"ablations.{what}: methods.{method}.seeds {seeds} lacks {builder.config.seeds[0]}, the study's first; "
            "add it"
        )
    given = builder.config.tasks[task].methods
    if given is not None and method not in given:
        raise UserError(
            f"ablations.{what}: tasks.{task}.methods leaves {method} out, expected it there; add it, or name other "
            "tasks"
        )


def check_distinct(what: str, values: Sequence[Any], names: Sequence[Any]) -> None:
    """Refuse a value that is there twice: its models would have the name of another's."""
    if len({str(name) for name in names}) < len(names):
        raise UserError(f"{what}: {values}, expected each once; leave one out")
