"""The ablations of a study (arXiv 2405.09055, section 4.4): further models, and a table for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.study import merges, realignment
from realign_plugin.study.catalogue import MASKS, MERGES
from realign_plugin.study.measuring_config import Pick, Poisoning, Topics
from realign_plugin.study.models_config import DataSet, Method
from realign_plugin.study.plan import Model, TableSpec
from realign_plugin.study.sections import Arguments, Names

if TYPE_CHECKING:
    from realign_plugin.study.builder import Builder


def add_ablations(builder: Builder) -> None:
    """Plan every ablation that the configuration asks for; each is a target and ends in a table."""
    for name, add in ADD.items():
        section = getattr(builder.config.ablations, name)
        if section is not None:
            add(builder, section)


@contextmanager
def _new_models(builder: Builder) -> Iterator[list[Model]]:
    """The models that the block adds; measured when it ends."""
    before = set(builder.plan.models)
    found: list[Model] = []
    yield found
    found += [model for name, model in builder.plan.models.items() if name not in before]


def _table(
    builder: Builder, name: str, title: str, description: str, tasks: Sequence[str], models: Sequence[Model]
) -> None:
    """A table of the tasks' own rows and the new ones; a target of its own.

    Args:
        builder: The builder.
        name: Of the ablation.
        title: Heading.
        description: What is shown.
        tasks: Tasks whose rows stand above.
        models: The new models.
    """
    new = {model.id for model in models}
    known = [
        model
        for model in builder.plan.models.values()
        if model.id in new
        or (model.id in builder.measuring.main and model.group in ("start", *tasks) and model.role != "rival")
    ]
    steps = builder.measuring.evaluations(list(models))
    needs = [
        *dict.fromkeys(steps.values()),
        *(builder.measuring.main[model.id] for model in known if model.id not in new),
    ]
    order = {group: number for number, group in enumerate(("start", *builder.config.tasks))}
    rows = sorted(known, key=lambda model: order.get(model.group, len(order)))
    spec = TableSpec(name, title, description, tuple(model.id for model in rows))
    builder.plan.targets[name] = [builder.measuring.table(spec, tuple(dict.fromkeys(needs)))]


def _picked(builder: Builder, section: Pick | Poisoning, what: str, kinds: Sequence[str]) -> tuple[Names, Names]:
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


def poisoning(builder: Builder, section: Poisoning) -> None:
    """Fine-tuning sets with harmful rows, fine-tuned and realigned."""
    tasks, methods = _picked(builder, section, "poisoning", ["mask_dpo"])
    with _new_models(builder) as models:
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
                builder.data(poison, DataSet(kind="sft", task="harmful", **options))
                label = f"{task.title}, {percent} % harmful rows"
                own = realignment.fine_tuned(builder, name, task, [poison], f"-poisoned{suffix}", label)
                for method in methods:
                    how = builder.methods[method]
                    prefix = f"realigned, {percent} % harmful rows"
                    realignment.masked(builder, name, task, method, how, own, builder.config.seeds[0], prefix=prefix)
    text = "Harmful answers among the rows of fine-tuning, before and after realignment."
    _table(builder, "poisoning", "Poisoned fine-tuning sets", text, tasks, models)


def transfer(builder: Builder, section: Pick) -> None:
    """Masks that were learnt on one task, on the vectors of the others."""
    if builder.full:
        raise UserError("ablations.transfer: works on LoRA adapters, but adaptation is full; leave it out")
    tasks, methods = _picked(builder, section, "transfer", ["mask_dpo"])
    if section.tasks is None:
        tasks = list(builder.config.tasks)
    if len(tasks) < 2:
        raise UserError(f"ablations.transfer.tasks: {', '.join(tasks)}, expected two or more; add a task")
    seed = builder.config.seeds[0]
    with _new_models(builder) as models:
        for method in methods:
            how = builder.methods[method]
            for source in tasks:
                _check_realigned(builder, source, method, "transfer")
                for name in tasks:
                    if name == source:
                        continue
                    path, step = builder.tuned[name]
                    run, trained = f"{name}-{method}-of-{source}-{seed}", f"{source}-{method}-{seed}"
                    out = builder.path("models", run)
                    words = ("realign", "transfer", builder.path("models", trained), out, "--task-adapter", path)
                    builder.command(run, "move", f"{run}: the mask of {source}", words, (trained, step), out)
                    evaluate = builder.config.tasks[name].evaluate
                    prefix = f"mask of {builder.plan.groups[source]}"
                    realignment.exports(
                        builder, run, how, name, seed, "realigned", [path], method, evaluate, prefix=prefix
                    )
    text = "The mask of one task on the task vector of another, without training."
    _table(builder, "transfer", "Masks on other tasks", text, tasks, models)


def topics(builder: Builder, section: Topics) -> None:
    """The study's own models on further prompt sets."""
    tasks = section.tasks if section.tasks is not None else list(builder.config.tasks)[:1]
    for task in tasks:
        check_choice("ablations.topics.tasks", task, builder.config.tasks)
    models = [
        m for m in builder.plan.models.values() if m.id in builder.measuring.main and m.group in ("start", *tasks)
    ]
    steps = builder.measuring.evaluations(models, "results-topics", section.evaluate)
    spec = TableSpec(
        "topics", "Topic by topic", f"{', '.join(section.evaluate)}, one topic a column.",
        tuple(model.id for model in models), "results-topics", tuple(section.evaluate), detail=True,
    )  # fmt: skip
    builder.plan.targets["topics"] = [builder.measuring.table(spec, tuple(dict.fromkeys(steps.values())))]


def data_efficiency(builder: Builder, section: Pick) -> None:
    """Realignment on few pairs; the fewer are among the more."""
    tasks, methods = _picked(builder, section, "data_efficiency", ["mask_dpo"])
    with _new_models(builder) as models:
        for count in section.values or [10, 100, 1000]:
            check_range("ablations.data_efficiency.values", count, 1, 10**9, fix="give whole numbers of pairs")
            for name, method in ((name, method) for name in tasks for method in methods):
                task, how = builder.config.tasks[name], builder.methods[method]
                pairs, changes = _limited(builder, task.pairs or builder.config.realign.pairs, int(count))
                realignment.masked(
                    builder, name, task, method, how, name, builder.config.seeds[0], changes, f"-n{count}", pairs,
                    prefix=f"realigned on {count} pairs",
                )  # fmt: skip
    text = "Realignment on a few of the preference pairs; the rows without a number are trained on all."
    _table(builder, "data_efficiency", "How many pairs it takes", text, tasks, models)


def _limited(builder: Builder, pairs: Names, count: int) -> tuple[Names, Arguments]:
    """Data sets of together ``count`` pairs: the study's own ones made anew, of others LLaMA-Factory's first rows."""
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
            builder.data(f"{name}_n{count}", builder.config.data[name].model_copy(update={"limit": rows}))
            found.append(f"{name}_n{count}")
    return found, {}


def granularity(builder: Builder, section: Pick) -> None:
    """One logit for each element, row, column or module."""
    tasks, methods = _picked(builder, section, "granularity", ["mask_dpo"])
    with _new_models(builder) as models:
        for value in section.values or ["element", "row", "column", "module"]:
            check_choice("ablations.granularity.values", value, ["element", "row", "column", "module"])
            changes = {"mask_granularity": value} | ({"mask_rescale": False} if value == "module" else {})
            for name, method in ((name, method) for name in tasks for method in methods):
                task, seed = builder.config.tasks[name], builder.config.seeds[0]
                realignment.masked(
                    builder, name, task, method, builder.methods[method], name, seed, changes,
                    f"-{value}", prefix=f"realigned by {value}",
                )  # fmt: skip
    text = "How many elements share one logit of the mask; a mask of one logit a module is not rescaled."
    _table(builder, "granularity", "Granularity of the mask", text, tasks, models)


def mask_kind(builder: Builder, section: Pick) -> None:
    """One training, exported with every kind of mask."""
    tasks, methods = _picked(builder, section, "mask_kind", ["mask_dpo"])
    seed = builder.config.seeds[0]
    with _new_models(builder) as models:
        for name, method in ((name, method) for name in tasks for method in methods):
            _check_realigned(builder, name, method, "mask_kind")
            run, how = f"{name}-{method}-{seed}", builder.methods[method]
            wanted = section.values or list(MASKS)
            for mask in wanted:
                check_choice("ablations.mask_kind.values", mask, MASKS)
            missing = [mask for mask in wanted if f"{run}-{mask}" not in builder.plan.models]
            if missing:
                realignment.exports(
                    builder, run, how, name, seed, "realigned", [builder.tuned[name][0]], method,
                    builder.config.tasks[name].evaluate, missing, step=f"masks-{run}",
                )  # fmt: skip
    text = "The same trained logits as a soft, binary, sampled or relaxed mask."
    _table(builder, "mask_kind", "Kinds of masks", text, tasks, models)


DIAL: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def strength(builder: Builder, section: Pick) -> None:
    """Every strength as a row: of merges, and of trained subspaces by mergekit's dial."""
    tasks, methods = _picked(builder, section, "strength", [*MERGES, "mask_dpo"])
    if section.methods is None:
        chosen = [
            name for name, how in builder.methods.items() if how.kind[0] in ("resta", "interpolation", "mask_dpo")
        ]
        methods = chosen or methods
    values = section.values or list(DIAL)
    for value in values:
        check_range("ablations.strength.values", value, 0.0, 2.0)
    seed = builder.config.seeds[0]
    with _new_models(builder) as models:
        for name, method in ((name, method) for name in tasks for method in methods):
            how = builder.methods[method]
            own = f"{name}-{method}-{seed}" if how.kind == ["mask_dpo"] else f"{name}-{method}"
            documents = _at_strengths(builder, name, method, how, values)
            needs = [builder.tuned[name][1], builder.aligned_step, *builder.before]
            if how.kind == ["mask_dpo"]:
                _check_realigned(builder, name, method, "strength")
                needs.append(own)
            step = builder.merge_step(
                f"strength-{own}", "merge", f"{own}: {len(values)} strengths", documents, tuple(needs)
            )
            role = "realigned" if how.kind == ["mask_dpo"] else "rival"
            label = f"realigned ({how.label or how.masks[0]})" if role == "realigned" else how.label or method
            for value, out in zip(values, documents, strict=True):
                builder.model(
                    f"{own}-at{value:g}", f"{label} at {value:g}", name, role, step, out, None,  # type: ignore[arg-type]
                    tasks=builder.config.tasks[name].evaluate, method=method,
                )  # fmt: skip
    text = "0 is the fine-tuned model for RESTA and interpolation, and the aligned model for a trained mask."
    _table(builder, "strength", "Strength of the repair", text, tasks, models)


def _at_strengths(
    builder: Builder, name: str, method: str, how: Method, values: Sequence[float]
) -> dict[str, merges.Document]:
    if how.kind != ["mask_dpo"]:
        found = realignment.merge_documents(builder, method, how.model_copy(update={"strengths": list(values)}), name)
        outs = [builder.path("models", f"{name}-{method}-at{value:g}") for value in values]
        return dict(zip(outs, found.values(), strict=True))
    run = f"{name}-{method}-{builder.config.seeds[0]}"
    base = (
        builder.local(builder.aligned_path or builder.config.model)
        if builder.full
        else builder.local(builder.config.model)
    )
    listed = [builder.local(builder.tuned[name][0])] if builder.full else [base]
    return {
        builder.path("models", f"{run}-at{value:g}"): merges.dial(
            builder.path("models", run), listed, base, mask=how.masks[0], strength=value
        )
        for value in values
    }


def _check_realigned(builder: Builder, task: str, method: str, what: str) -> None:
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


ADD: Final[dict[str, Callable[[Builder, Any], None]]] = {
    "poisoning": poisoning,
    "transfer": transfer,
    "topics": topics,
    "data_efficiency": data_efficiency,
    "granularity": granularity,
    "mask_kind": mask_kind,
    "strength": strength,
}
