"""The part of a plan where masks are trained and exported, and LoRA adapters under the same loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.lab.study import merges
from realign_plugin.lab.study.catalogue import LORA, Recipe
from realign_plugin.lab.study.datasets import Lesson
from realign_plugin.lab.study.models_config import Method, Task
from realign_plugin.lab.study.sections import Arguments, Names
from realign_plugin.lab.study.steps import Model, Role, Step

if TYPE_CHECKING:
    from realign_plugin.lab.study.builder import Builder

EXPECTED: Final[dict[Lesson, str]] = {
    "pairs": "the ranking data sets that realignment learns from",
    "safety": "data sets of the aligned model's answers to safety prompts (data of kind on_policy)",
    "skill": "data sets of prompts of the new skill (data of kind on_policy, with skill)",
}


@dataclass(frozen=True)
class Realignment:
    """A training of masks, or of LoRA under the same loss, as far as its kind decides.

    Attributes:
        recipe: Where its arguments start from.
        says: What it is called.
        datasets: LLaMA-Factory's names.
        arguments: Models, stage and type.
    """

    recipe: Recipe
    says: str
    datasets: Names
    arguments: Arguments


def realignment(builder: Builder, kind: str, tasks: Sequence[str], paths: list[str], pairs: Names) -> Realignment:
    """What a kind of method learns from, and how.

    Args:
        builder: The builder.
        kind: ``mask_dpo``, ``safety_distill`` or ``safety_distill_lora``.
        tasks: Tasks of the fine-tuned models.
        paths: Their models.
        pairs: Preference pairs in place of the tasks'.

    Raises:
        UserError: If nothing is named to learn from, or LoRA adapters are asked for where models are whole.
    """
    if kind == "mask_dpo":
        chosen = pairs or _learnt(builder, tasks, "pairs")
        return Realignment("mask_dpo", "masked DPO", chosen, _models(builder, paths, kind, "safety_subspace"))
    safety, skill = _learnt(builder, tasks, "safety"), _learnt(builder, tasks, "skill")
    datasets = list(dict.fromkeys([*safety, *skill]))
    more = {"skill_dataset": ",".join(skill)}
    if kind != LORA:
        arguments = _models(builder, paths, kind, "safety_subspace") | more
        return Realignment("safety_distill", "self-distillation", datasets, arguments)
    if builder.full:
        raise UserError(f"{LORA}: trains LoRA adapters, but adaptation is full; leave the method out")
    arguments = _models(builder, paths, "safety_distill", "lora") | more
    return Realignment("safety_distill_lora", "self-distillation of LoRA", datasets, arguments)


def _learnt(builder: Builder, tasks: Sequence[str], lesson: Lesson) -> Names:
    found = list(dict.fromkeys(name for task in tasks for name in builder.datasets.learnt(task, lesson)))
    if not found:
        raise UserError(f"realign.{lesson}: is empty, expected {EXPECTED[lesson]}; name them")
    return found


def _models(builder: Builder, paths: list[str], stage: str, kind: str) -> Arguments:
    found: Arguments = {"stage": stage, "finetuning_type": kind}
    if builder.full:
        return {"model_name_or_path": builder.aligned_path or builder.config.model, **found, "task_models": paths}
    adapters = {"aligned_adapter": builder.aligned_path, "task_adapters": paths}
    return {"model_name_or_path": builder.config.model, **found, **adapters}


def masked(
    builder: Builder, name: str, task: Task, method: str, how: Method, own: str, seed: int,
    changes: Mapping[str, Any] | None = None, suffix: str = "", pairs: Names | None = None, prefix: str = "realigned",
) -> list[Model]:  # fmt: skip
    """Masks on one fine-tuned model, exported with each mask of the method.

    Args:
        builder: The builder.
        name: The task.
        task: Its section.
        method: The method's name.
        how: The method.
        own: Id of the fine-tuned model.
        seed: Of the training.
        changes: Further arguments.
        suffix: Of the ids.
        pairs: Preference pairs; default: the task's.
        prefix: What the labels begin with.

    Returns:
        The models.

    Raises:
        UserError: If there is nothing to learn from.
    """
    path, step = builder.tuned[own]
    run = f"{own}-{method}{suffix}-{seed}"
    what = realignment(builder, how.kind[0], [name], [path], pairs or [])
    builder.train(
        run, "realign", f"{run}: {what.says}", what.recipe, what.datasets, what.arguments,
        [how.train, changes or {}], (step, builder.aligned_step), seed,
    )  # fmt: skip
    return exports(builder, run, how, name, seed, "realigned", [path], method, task.evaluate, prefix=prefix)


def distilled_lora(builder: Builder, name: str, task: Task, method: str, how: Method, seed: int) -> Model:
    """A LoRA adapter under the loss of self-distillation, from the fine-tuned one.

    Args:
        builder: The builder.
        name: The task.
        task: Its section.
        method: The method's name.
        how: The method.
        seed: Of the training.

    Raises:
        UserError: If there is nothing to learn from, or models are whole.
    """
    path, step = builder.tuned[name]
    run = f"{name}-{method}-{seed}"
    what = realignment(builder, LORA, [name], [path], [])
    step = builder.train(
        run, "realign", f"{run}: {what.says}", what.recipe, what.datasets, what.arguments, [how.train],
        (step, builder.aligned_step), seed,
    )  # fmt: skip
    place = builder.place(builder.path("models", run))
    label = f"realigned ({how.label or method}){builder.seed_label(seed)}"
    return builder.model(run, label, name, "realigned", step, *place, task.evaluate, method=method, seed=seed)


def exports(
    builder: Builder, run: str, how: Method, group: str, seed: int, role: Role, tuned: list[str], method: str,
    evaluate: Names | None, masks: Sequence[str] | None = None, prefix: str = "realigned", step: str | None = None,
) -> list[Model]:  # fmt: skip
    """A trained subspace as plain adapters (or models), one for each mask, and their rows.

    Args:
        builder: The builder.
        run: Step that trains the subspace, and its folder in ``models/``.
        how: The method.
        group: Of the rows.
        seed: Of the training.
        role: Of the rows.
        tuned: Paths of the fine-tuned models.
        method: The method's name.
        evaluate: lm-eval tasks in place of the study's.
        masks: Masks in place of the method's.
        prefix: What the labels begin with.
        step: Name of the exporting step.
    """
    chosen, folder = list(masks or how.masks), builder.path("models", run)
    step = step or f"export-{run}"
    outs = [builder.path("models", f"{run}-{mask}") for mask in chosen]
    models = []
    for mask, out in zip(chosen, outs, strict=True):
        named = mask if masks is not None or len(how.masks) > 1 or not how.label else ""
        label = ", ".join(part for part in (how.label, named) if part)
        models.append(
            builder.model(
                f"{run}-{mask}", f"{prefix} ({label}){builder.seed_label(seed)}", group, role, step,
                *builder.place(out), evaluate, method=method, seed=seed, subspace=folder,
            )
        )  # fmt: skip
    says = f"{run}: as {'models' if builder.full else 'LoRA adapters'}, {', '.join(chosen)}"
    if builder.full:
        base = builder.local(builder.aligned_path or builder.config.model)
        listed = [builder.local(path) for path in tuned]
        documents = {
            out: merges.dial(folder, listed, base, mask=mask, strength=1.0)
            for mask, out in zip(chosen, outs, strict=True)
        }
        builder.merge_step(step, "export", says, documents, (run,))
        return models
    lines = [("realign", "export", folder, out, "--mask", mask) for mask, out in zip(chosen, outs, strict=True)]
    builder.plan.add(Step(step, "export", says, tuple(lines), (run,), creates=tuple(outs), together=True))
    return models
