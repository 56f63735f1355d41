"""What the report needs to know about a study: ``study.json``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from realign_plugin.lab.records import Study
from realign_plugin.lab.study.planning.commands import Measure, Train
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.training.settings.preflight import split_paths


def describe(plan: Plan) -> Study:
    """What the report needs to know about the study."""
    from realign_plugin.lab.study.tables import versions

    def inside(path: str) -> str:
        return str(Path(path).relative_to(plan.root))

    trainings = [
        step.training.model_copy(update={"folder": inside(step.training.folder)})
        for step in plan.steps.values()
        if step.training is not None and Path(step.training.folder).is_relative_to(plan.root)
    ]
    models = [
        model.model_copy(update={"subspace": inside(model.subspace)}) if model.subspace else model
        for model in plan.models.values()
    ]
    commands = [command for step in plan.steps.values() for command in step.does]
    measured = dict.fromkeys(command.out for command in commands if isinstance(command, Measure))
    return Study(
        title=plan.config["title"], created=datetime.now(UTC).isoformat(timespec="seconds"), config=plan.config,
        versions=versions(), seeds=plan.config["seeds"], groups=plan.groups, models=models, trainings=trainings,
        tables=list(plan.tables), outdated=_outdated(plan), results=[inside(out) for out in measured],
        data=_data_sets(plan),
    )  # fmt: skip


def _outdated(plan: Plan) -> dict[str, str]:
    """Tables that have to be made, or made again, each with its target."""
    stale = {step.name for step, _ in plan.stale(plan.targets)}
    made = [(target, step) for target, steps in plan.targets.items() if target != "all" for step in steps]
    found = {name: target for target, step in made for name in plan.tables if step == f"table-{name}"}
    return {name: target for name, target in found.items() if f"table-{name}" in stale}


def _data_sets(plan: Plan) -> list[str]:
    """The data sets that the study makes or learns from, by the names of their cards."""
    steps = plan.steps.values()
    names = [step.name.removeprefix("data-") for step in steps if step.kind in ("data", "on_policy")]
    for given in (command.arguments for step in steps for command in step.does if isinstance(command, Train)):
        for name in (*split_paths(given.get("dataset")), *split_paths(given.get("eval_dataset"))):
            names += [name, name.removesuffix("_validation"), name.removesuffix("_chosen")]
    return list(dict.fromkeys(names))
