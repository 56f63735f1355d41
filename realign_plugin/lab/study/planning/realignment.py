"""The main part of a plan: the aligned model, the fine-tuned ones, and all that realigns one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.records import Model
from realign_plugin.lab.study.config.catalogue import LORA, MASKED, MERGES, Recipe
from realign_plugin.lab.study.config.models import Method, Task
from realign_plugin.lab.study.config.sections import Names
from realign_plugin.lab.study.planning import merges
from realign_plugin.lab.study.planning.masking import Masks, distilled_lora, masked
from realign_plugin.lab.study.planning.trainings import Run, train

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder


def align(builder: Builder) -> None:
    """The base model and the aligned one.

    Raises:
        UserError: If the section is empty, ambiguous, or names a folder that is missing.
    """
    section, full = builder.config.align, builder.full
    builder.plan.groups["start"] = "before fine-tuning"
    builder.model("base", "base", "start", "base", "", (builder.config.model, None))
    if section is None:
        return
    kind = "model" if full else "adapter"
    given, other = (section.model, section.adapter) if full else (section.adapter, section.model)
    if other is not None:
        raise UserError(
            f"align: {other} does not apply, expected align.{kind}, as adaptation is {'full' if full else 'lora'}"
        )
    if (given is not None) == bool(section.steps):
        raise UserError(f"align: expected {kind} or steps, and not both; give one")
    if given is not None:
        builder.check_folder(given, f"align.{kind}")
        builder.aligned_path = str(given)
    for number, part in enumerate(section.steps):
        name = "aligned" if number == len(section.steps) - 1 else f"aligned-{number + 1}-{part.stage}"
        arguments, needs = builder.stage(part.stage, builder.aligned_path), (builder.aligned_step,)
        run = Run(
            name, "align", part.stage.upper(), part.stage, part.dataset, arguments, [part.train], needs,
            threads=part.threads,
        )  # fmt: skip
        builder.aligned_step = train(builder, run)
        builder.aligned_path = builder.path("models", name)
    if section.steps and builder.config.template is not None:
        # Saved with the template of the training; the base's own may lack one, or have another.
        builder.measuring.tokenizer = (str(builder.aligned_path), builder.aligned_step)
    place = builder.place(builder.aligned_path)
    builder.model("aligned", "aligned", "start", "aligned", builder.aligned_step, place)


def tasks(builder: Builder) -> None:
    """All fine-tuned models, what they answer, and for each task all that realigns it."""
    for name, task in builder.config.tasks.items():
        tune(builder, name, task)
    for name in builder.datasets.on_policy():
        builder.datasets.add_on_policy(name, builder.config.data[name])
    for name, task in builder.config.tasks.items():
        builder.plan.groups[name] = task.label or name
        tuned_model(builder, name, name, task)
        for method in task.methods if task.methods is not None else builder.methods:
            check_choice(f"tasks.{name}.methods", method, builder.methods)
            realign(builder, name, task, method)


def tune(builder: Builder, name: str, task: Task, more: Sequence[str] = (), suffix: str = "") -> str:
    """Fine-tune the model of a task, unless it is given.

    Returns:
        Its id.

    Raises:
        UserError: If the section gives neither or both of a model and data.
    """
    given, kind = (task.model, "model") if builder.full else (task.adapter, "adapter")
    if (given is not None) == (task.dataset is not None):
        other = "adapter" if builder.full else "model"
        hint = f"adaptation is {builder.config.adaptation}, so {other} is ignored; " if getattr(task, other) else ""
        raise UserError(f"tasks.{name}: {hint}expected {kind} or dataset, and not both; give one")
    own, step, path = name + suffix, "", str(given)
    if task.dataset is not None:
        arguments, needs = builder.stage("sft", builder.aligned_path), (builder.aligned_step,)
        run = Run(own, "finetune", "fine-tuning", "sft", [*task.dataset, *more], arguments, [task.train], needs)
        step = train(builder, run)
        path = builder.path("models", own)
    else:
        builder.check_folder(Path(path), f"tasks.{name}.{kind}")
    builder.tuned[own] = (path, step)
    return own


def tuned_model(builder: Builder, own: str, name: str, task: Task, label: str | None = None) -> Model:
    """The row of a fine-tuned model.

    Args:
        builder: The builder.
        own: Its id.
        name: The task.
        task: Its section.
        label: What the tables call it; default: the task's own.
    """
    path, step = builder.tuned[own]
    place = builder.place(path)
    return builder.model(own, label or task.title, name, "fine-tuned", step, place, tasks=task.evaluate)


def realign(builder: Builder, name: str, task: Task, method: str) -> None:
    """One method on one fine-tuned model, with each of its seeds."""
    how = builder.methods[method]
    if how.kind[0] in MERGES:
        merged(builder, name, task, method, how)
        return
    for seed in how.seeds if how.seeds is not None else builder.config.seeds:
        if how.kind[0] in MASKED:
            masked(builder, Masks(name, method, seed))
        elif how.kind == [LORA]:
            distilled_lora(builder, name, method, seed)
        else:
            baseline(builder, name, task, method, how, seed)


def baseline(builder: Builder, name: str, task: Task, method: str, how: Method, seed: int) -> None:
    """Stock SFT or DPO on the fine-tuned model, or one after the other.

    Raises:
        UserError: If the data that it learns from are not named.
    """
    path, step = builder.tuned[name]
    stem, given = f"{name}-{method}", task.answers or builder.config.realign.answers
    for number, stage in enumerate(how.kind):
        pairs = builder.datasets.learnt(name, "pairs")
        asked = pairs if stage == "dpo" else given or chosen_answers(builder, pairs)
        if not asked:
            option = "answers" if stage == "sft" else "pairs"
            raise UserError(f"realign.{option}: is empty, but methods.{method} learns from it; name data sets")
        suffix = "" if number == len(how.kind) - 1 else f"-{number + 1}-{stage}"
        recipe: Recipe = "baseline_sft" if stage == "sft" else "baseline_dpo"
        arguments = builder.stage(stage, path)
        run = Run(
            stem, "baseline", stage.upper(), recipe, asked, arguments, [how.train], (step,), seed=seed, suffix=suffix
        )
        step, path = train(builder, run), builder.path("models", run.id)
    label, place = how.label or method, builder.place(path)
    builder.model(
        f"{stem}-{seed}", label, name, "baseline", step, place, tasks=task.evaluate, method=method, seed=seed
    )


def chosen_answers(builder: Builder, pairs: Names) -> Names:
    """The chosen answers of pairs as data sets of their own; none where some pairs are not the study's."""
    return [f"{name}_chosen" for name in pairs] if all(builder.datasets.maker(name) for name in pairs) else []


def merged(builder: Builder, name: str, task: Task, method: str, how: Method) -> None:
    """A merge of the fine-tuned model with the aligned one; of several strengths the best is taken."""
    documents, label = merge_documents(builder, method, how, name), how.label or method
    needs = (builder.tuned[name][1], builder.aligned_step, *builder.before)
    given = builder.given(builder.tuned[name][0], builder.aligned_path, builder.config.model, builder.config.unaligned)
    step = builder.merge_step(f"merge-{name}-{method}", "merge", f"{name}: {label}", documents, needs, given)
    if len(documents) > 1:
        by_strength = dict(zip(how.strengths, documents, strict=True))
        builder.measuring.choice(name, method, label, step, by_strength)
        return
    strength = f" ({how.strengths[0]:g})" if how.strengths else ""
    out = next(iter(documents))
    place = (out, None)
    builder.model(
        f"{name}-{method}", label + strength, name, "baseline", step, place, tasks=task.evaluate, method=method
    )


def merge_documents(builder: Builder, method: str, how: Method, own: str) -> dict[str, merges.Document]:
    """A mergekit document for each strength of a method, by the folder of the merged model.

    Raises:
        UserError: If the method needs the model before alignment and there is none.
    """
    config, entry = builder.config, MERGES[how.kind[0]]
    situation: merges.Situation = "models" if builder.full else "adapters" if builder.aligned_path else "instruct"
    if situation == "adapters" and config.unaligned:
        raise UserError(
            f"unaligned: {config.unaligned} with an aligned adapter, whose base is the model before alignment; "
            "leave it out"
        )
    unaligned = config.unaligned or (config.model if builder.aligned_path else None)
    if entry.unaligned and unaligned is None:
        raise UserError(
            f"methods.{method}: {entry.label} needs the model before alignment, expected `unaligned: MODEL`; add it, "
            "or leave the method out"
        )
    base, tuned = builder.local(config.model), builder.local(builder.tuned[own][0])
    aligned = builder.local(builder.aligned_path or config.model)
    paths = dict.fromkeys(("safe-lora", "finetuned-2-lora", "finetuned-2"), "")
    paths |= {"base": base, "aligned-lora": aligned, "finetuned-lora": tuned, "instruct-lora": tuned}
    paths |= {"aligned": aligned, "finetuned-1": tuned if builder.full else f"{base}+{tuned}"}
    paths |= {"unaligned": builder.local(unaligned) if unaligned else ""}
    name = f"{own}-{method}"
    outs = [f"{name}-s{s:g}" for s in how.strengths] if len(how.strengths) > 1 else [name]
    return {
        builder.path("models", out): merges.baseline(how.kind[0], strength, situation, paths)
        for out, strength in zip(outs, how.strengths, strict=True)
    }
