"""The ablations of a study (arXiv 2405.09055, section 4.4): further models, and a table for each question."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.lab.study.config.catalogue import MASKED, MASKS
from realign_plugin.lab.study.config.data import DataSet
from realign_plugin.lab.study.config.measuring import Pick, Poisoning, Topics
from realign_plugin.lab.study.config.sections import Arguments, Names
from realign_plugin.lab.study.planning import masking, realignment
from realign_plugin.lab.study.planning.ablation_parts import check_distinct, check_realigned, new_models, picked, table
from realign_plugin.lab.study.planning.commands import Train, Transfer
from realign_plugin.lab.study.planning.masking import Masks, Trained
from realign_plugin.lab.study.planning.steps import TableSpec, distinct
from realign_plugin.lab.study.planning.strengths import strength

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder


def add_ablations(builder: Builder) -> None:
    """Plan every ablation that the configuration asks for; each is a target and ends in a table."""
    for name, add in ADD.items():
        section = getattr(builder.config.ablations, name)
        if section is not None:
            if isinstance(section, Pick) and name != "strength":  # which has names of six digits
                check_distinct(f"ablations.{name}.values", section.values, section.values)
            add(builder, section)


def poisoning(builder: Builder, section: Poisoning) -> None:
    """Fine-tuning sets with harmful rows, fine-tuned and realigned."""
    tasks, methods = picked(builder, section, "poisoning", MASKED)
    check_distinct("ablations.poisoning.shares", section.shares, [f"{100 * share:g}" for share in section.shares])
    with new_models(builder) as models:
        for name in tasks:
            task = builder.config.tasks[name]
            if task.dataset is None or len(task.dataset) > 1 or task.dataset[0] not in builder.config.data:
                raise UserError(
                    f"ablations.poisoning.tasks: {name} is not fine-tuned on one data set of `data`, expected one "
                    "whose rows can be counted; add it there"
                )
            for share in section.shares:
                check_range("ablations.poisoning.shares", share, 0.0, 0.9, low_open=True)
                percent = f"{100 * share:g}"
                suffix = percent.replace(".", "p")
                poison = f"poison_{name}_{suffix}"
                options: dict[str, Any] = {"share": share, "of": task.dataset[0], "source": section.source}
                builder.datasets.add(poison, DataSet(kind="sft", task="harmful", **options))
                label = f"{task.title}, {percent} % harmful rows"
                own = realignment.tune(builder, name, task, [poison], f"-poisoned{suffix}")
                realignment.tuned_model(builder, own, name, task, label)
                for method in methods:
                    prefix = f"realigned, {percent} % harmful rows"
                    masking.masked(builder, Masks(name, method, builder.config.seeds[0], own, prefix=prefix))
    text = "Harmful answers among the rows of fine-tuning, before and after realignment."
    table(builder, "poisoning", "Poisoned fine-tuning sets", text, tasks, models)


def transfer(builder: Builder, section: Pick) -> None:
    """Masks that were learnt on one task, on the vectors of the others."""
    if builder.full:
        raise UserError("ablations.transfer: works on LoRA adapters, but adaptation is full; leave it out")
    tasks, methods = picked(builder, section, "transfer", MASKED)
    if section.tasks is None:
        tasks = list(builder.config.tasks)
    if len(tasks) < 2:
        raise UserError(f"ablations.transfer.tasks: {', '.join(tasks)}, expected two or more; add a task")
    seed = builder.config.seeds[0]
    with new_models(builder) as models:
        for method in methods:
            for source in tasks:
                check_realigned(builder, source, method, "transfer")
                for name in tasks:
                    if name == source:
                        continue
                    path, step = builder.tuned[name]
                    run, trained = f"{name}-{method}-of-{source}-{seed}", f"{source}-{method}-{seed}"
                    out = builder.path("models", run)
                    does = Transfer(builder.path("models", trained), out, path, _weight(builder, trained))
                    builder.command(
                        run, "move", f"{run}: the mask of {source}", does, (trained, step), builder.given(path)
                    )
                    prefix = f"mask of {builder.plan.groups[source]}"
                    masking.exports(builder, Trained(run, name, method, seed, [path], prefix))
    text = "The mask of one task on the task vector of another, without training."
    table(builder, "transfer", "Masks on other tasks", text, tasks, models)


def _weight(builder: Builder, trained: str) -> float | None:
    """The weight of its task vector that a training was given; None for the default."""
    given = [
        command.arguments.get("task_weight")
        for command in builder.plan.steps[trained].does
        if isinstance(command, Train)
    ]
    return float(given[0]) if given and isinstance(given[0], int | float) else None


def topics(builder: Builder, section: Topics) -> None:
    """The study's own models on further prompt sets."""
    tasks = section.tasks if section.tasks is not None else list(builder.config.tasks)[:1]
    for task in tasks:
        check_choice("ablations.topics.tasks", task, builder.config.tasks)
    models = [
        m for m in builder.plan.models.values() if m.id in builder.measuring.main and m.group in ("start", *tasks)
    ]
    steps = builder.measuring.evaluations(models, "results-topics", section.evaluate)
    text, ids = f"{', '.join(section.evaluate)}, one topic a column.", tuple(model.id for model in models)
    spec = TableSpec("topics", "Topic by topic", text, ids, "results-topics", tuple(section.evaluate), detail=True)
    builder.plan.targets["topics"] = [builder.measuring.table(spec, distinct(steps.values()))]


def data_efficiency(builder: Builder, section: Pick) -> None:
    """Realignment on few pairs; the fewer are among the more."""
    tasks, methods = picked(builder, section, "data_efficiency", ["mask_dpo"])
    with new_models(builder) as models:
        for count in section.values or [10, 100, 1000]:
            check_range("ablations.data_efficiency.values", count, 1, 10**9, fix="give whole numbers of pairs")
            if count != int(count):
                raise UserError(
                    f"ablations.data_efficiency.values: {count!r}, expected whole numbers of pairs; round it"
                )
            for name, method in ((name, method) for name in tasks for method in methods):
                seed, prefix = builder.config.seeds[0], f"realigned on {count} pairs"
                pairs, changes = _limited(builder, builder.datasets.learnt(name, "pairs"), int(count))
                masking.masked(builder, Masks(name, method, seed, "", changes, f"-n{count}", pairs, prefix))
    text = "Realignment on a few of the preference pairs; the rows without a number are trained on all."
    table(builder, "data_efficiency", "How many pairs it takes", text, tasks, models)


def _limited(builder: Builder, pairs: Names, count: int) -> tuple[Names, Arguments]:
    """Data sets of together ``count`` pairs: the study's own ones made again, of others LLaMA-Factory's first rows."""
    if not all(name in builder.config.data for name in pairs):
        return pairs, {"max_samples": ceil(count / len(pairs))}
    found = []
    for number, name in enumerate(pairs):
        rows = count // len(pairs) + (number < count % len(pairs))
        own = builder.config.data[name].limit
        if own is not None and rows > own:
            raise UserError(
                f"ablations.data_efficiency.values: {count} takes {rows} pairs of {name}, which has {own}; leave it "
                "out"
            )
        if rows:
            builder.datasets.add(f"{name}_n{count}", builder.config.data[name].model_copy(update={"limit": rows}))
            found.append(f"{name}_n{count}")
    return found, {}


def granularity(builder: Builder, section: Pick) -> None:
    """One logit for each element, row, column or module."""
    tasks, methods = picked(builder, section, "granularity", MASKED)
    with new_models(builder) as models:
        for value in section.values or ["element", "row", "column", "module"]:
            check_choice("ablations.granularity.values", value, ["element", "row", "column", "module"])
            changes = {"mask_granularity": value} | ({"mask_rescale": False} if value == "module" else {})
            for name, method in ((name, method) for name in tasks for method in methods):
                seed, prefix = builder.config.seeds[0], f"realigned by {value}"
                masking.masked(builder, Masks(name, method, seed, changes=changes, suffix=f"-{value}", prefix=prefix))
    text = "How many elements share one logit of the mask; a mask of one logit a module is not rescaled."
    table(builder, "granularity", "Granularity of the mask", text, tasks, models)


def mask_kind(builder: Builder, section: Pick) -> None:
    """One training, exported with every kind of mask."""
    tasks, methods = picked(builder, section, "mask_kind", MASKED)
    seed = builder.config.seeds[0]
    with new_models(builder) as models:
        for name, method in ((name, method) for name in tasks for method in methods):
            check_realigned(builder, name, method, "mask_kind")
            run = f"{name}-{method}-{seed}"
            wanted = section.values or list(MASKS)
            for mask in wanted:
                check_choice("ablations.mask_kind.values", mask, MASKS)
            missing = [mask for mask in wanted if f"{run}-{mask}" not in builder.plan.models]
            if missing:
                trained = Trained(run, name, method, seed, [builder.tuned[name][0]])
                masking.exports(builder, trained, missing, step=f"masks-{run}")
    text = "The same trained logits as a soft, binary, sampled or relaxed mask."
    table(builder, "mask_kind", "Kinds of masks", text, tasks, models)


ADD: Final[dict[str, Callable[[Builder, Any], None]]] = {
    "poisoning": poisoning,
    "transfer": transfer,
    "topics": topics,
    "data_efficiency": data_efficiency,
    "granularity": granularity,
    "mask_kind": mask_kind,
    "strength": strength,
}
