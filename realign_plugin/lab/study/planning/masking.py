"""The part of a plan where masks are trained and exported, and LoRA adapters under the same loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.lab.records import Model, Role
from realign_plugin.lab.study.config.catalogue import LORA, Recipe, recipe
from realign_plugin.lab.study.config.sections import Arguments, Names
from realign_plugin.lab.study.planning import merges
from realign_plugin.lab.study.planning.commands import Export
from realign_plugin.lab.study.planning.datasets import Lesson
from realign_plugin.lab.study.planning.steps import Step
from realign_plugin.lab.study.planning.trainings import Run, train

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder

EXPECTED: Final[dict[Lesson, str]] = {
    "pairs": "the ranking data sets that realignment learns from",
    "safety": "data sets of the aligned model's answers to safety prompts (data of kind on_policy)",
    "skill": "data sets of prompts of the new skill (data of kind on_policy, with skill), or distill_skill_weight: 0",
}


@dataclass(frozen=True)
class Realignment:
    """A training of masks, or of LoRA under the same loss, as far as its kind decides.

    Attributes:
        recipe: Where its arguments start from.
        title: What it is called.
        datasets: LLaMA-Factory's names.
        arguments: Models, stage and type.
    """

    recipe: Recipe
    title: str
    datasets: Names
    arguments: Arguments

    def run(self, stem: str, seed: int, changes: Sequence[Mapping[str, Any]], needs: Sequence[str]) -> Run:
        """The training of a seed; see ``Run``."""
        return Run(stem, "realign", self.title, self.recipe, self.datasets, self.arguments, changes, needs, seed=seed)


def realignment(
    builder: Builder,
    kind: str,
    tasks: Sequence[str],
    paths: list[str],
    pairs: Names,
    changes: Sequence[Mapping[str, Any]],
) -> Realignment:
    """What a kind of method learns from, and how.

    Args:
        builder: The builder.
        kind: Of the method.
        tasks: Whose data it learns from.
        paths: The fine-tuned models.
        pairs: Preference pairs; default: the tasks'.
        changes: Arguments of the training on top of the recipe's.

    Raises:
        UserError: If nothing is named to learn from, or LoRA adapters are asked for where models are whole.
    """
    if kind == "mask_dpo":
        chosen = pairs or _learnt(builder, tasks, "pairs")
        return Realignment("mask_dpo", "masked DPO", chosen, _models(builder, paths, kind, "safety_subspace"))
    name: Recipe = "safety_distill_lora" if kind == LORA else "safety_distill"
    given = recipe(name, builder.config.train, builder.config.adaptation, changes)
    safety = _learnt(builder, tasks, "safety")
    skill = _learnt(builder, tasks, "skill", needed=given.get("distill_skill_weight") != 0)
    datasets = list(dict.fromkeys([*safety, *skill]))
    more = {"skill_dataset": ",".join(skill)} if skill else {}
    if kind != LORA:
        arguments = _models(builder, paths, kind, "safety_subspace") | more
        return Realignment(name, "self-distillation", datasets, arguments)
    if builder.full:
        raise UserError(f"{LORA}: trains LoRA adapters, but adaptation is full; leave the method out")
    arguments = _models(builder, paths, "safety_distill", "lora") | more
    return Realignment(name, "self-distillation of LoRA", datasets, arguments)


def _learnt(builder: Builder, tasks: Sequence[str], lesson: Lesson, needed: bool = True) -> Names:
    found = list(dict.fromkeys(name for task in tasks for name in builder.datasets.learnt(task, lesson)))
    if needed and not found:
        raise UserError(f"realign.{lesson}: is empty, expected {EXPECTED[lesson]}; name them")
    return found


def _models(builder: Builder, paths: list[str], stage: str, kind: str) -> Arguments:
    found: Arguments = {"stage": stage, "finetuning_type": kind}
    if builder.full:
        return {"model_name_or_path": builder.aligned_path or builder.config.model, **found, "task_models": paths}
    adapters = {"aligned_adapter": builder.aligned_path, "task_adapters": paths}
    return {"model_name_or_path": builder.config.model, **found, **adapters}


@dataclass(frozen=True)
class Masks:
    """Masks that are to be trained on one fine-tuned model.

    Attributes:
        task: The task.
        method: The method's name.
        seed: Of the training.
        own: Id of the fine-tuned model; default: the task's.
        changes: Further arguments.
        suffix: Of the ids.
        pairs: Preference pairs; default: the task's.
        prefix: What the labels begin with.
    """

    task: str
    method: str
    seed: int
    own: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    pairs: Names = field(default_factory=list)
    prefix: str = "realigned"


@dataclass(frozen=True)
class Trained:
    """A trained subspace.

    Attributes:
        id: The step that trains it, and its folder in ``models/``.
        group: Of its rows: a task, or ``fused``.
        method: The method's name.
        seed: Of the training.
        tuned: Paths of the fine-tuned models.
        prefix: What the labels begin with.
        label: What the tables call it; default: as the method.
        fusion: The fusion that it is on.
    """

    id: str
    group: str
    method: str
    seed: int
    tuned: Sequence[str]
    prefix: str = "realigned"
    label: str | None = None
    fusion: str | None = None


def masked(builder: Builder, masks: Masks) -> list[Model]:
    """Train masks on one fine-tuned model and export them; the models.

    Raises:
        UserError: If there is nothing to learn from.
    """
    own, how = masks.own or masks.task, builder.methods[masks.method]
    path, step = builder.tuned[own]
    changes = [how.train, masks.changes]
    what = realignment(builder, how.kind[0], [masks.task], [path], masks.pairs, changes)
    stem, needs = f"{own}-{masks.method}{masks.suffix}", (step, builder.aligned_step)
    name = train(builder, what.run(stem, masks.seed, changes, needs))
    return exports(builder, Trained(name, masks.task, masks.method, masks.seed, [path], masks.prefix))


def distilled_lora(builder: Builder, name: str, method: str, seed: int) -> Model:
    """A LoRA adapter under the loss of self-distillation, from the fine-tuned one.

    Raises:
        UserError: If there is nothing to learn from, or models are whole.
    """
    path, step = builder.tuned[name]
    how, task = builder.methods[method], builder.config.tasks[name]
    what = realignment(builder, LORA, [name], [path], [], [how.train])
    step = train(builder, what.run(f"{name}-{method}", seed, [how.train], (step, builder.aligned_step)))
    place, label = builder.place(builder.path("models", step)), f"realigned ({how.label or method})"
    facts: Arguments = {"tasks": task.evaluate, "method": method, "seed": seed}
    return builder.model(step, label, name, "realigned", step, place, **facts)


def exports(
    builder: Builder, trained: Trained, masks: Sequence[str] | None = None, step: str | None = None
) -> list[Model]:
    """A trained subspace as plain adapters (or models), one for each mask, and their rows.

    Args:
        builder: The builder.
        trained: The subspace.
        masks: Masks in place of the method's.
        step: Name of the exporting step.
    """
    how = builder.methods[trained.method]
    whole = how.label if trained.label is None else trained.label
    folder, step = builder.path("models", trained.id), step or f"export-{trained.id}"
    outs = {mask: builder.path("models", f"{trained.id}-{mask}") for mask in masks or how.masks}
    facts: Arguments = {"method": trained.method, "seed": trained.seed, "subspace": folder, "fusion": trained.fusion}
    facts["tasks"] = _evaluated(builder, trained)
    role: Role = "fused realigned" if trained.fusion is not None else "realigned"
    models = []
    for mask, out in outs.items():
        named = mask if masks is not None or len(how.masks) > 1 or not whole else ""
        label = f"{trained.prefix} ({', '.join(part for part in (whole, named) if part)})"
        models.append(
            builder.model(f"{trained.id}-{mask}", label, trained.group, role, step, builder.place(out), **facts)
        )
    title = f"{trained.id}: as {'models' if builder.full else 'LoRA adapters'}, {', '.join(outs)}"
    if builder.full:
        base = builder.local(builder.aligned_path or builder.config.model)
        listed = [builder.local(path) for path in trained.tuned]
        documents = {out: merges.dial(folder, listed, base, mask=mask, strength=1.0) for mask, out in outs.items()}
        builder.merge_step(step, "export", title, documents, (trained.id,))
        return models
    does = tuple(Export(folder, out, mask) for mask, out in outs.items())
    creates = tuple(outs.values())
    builder.plan.add(Step(step, "export", title, does, (trained.id,), creates=creates, together=True))
    return models


def _evaluated(builder: Builder, trained: Trained) -> Names | None:
    """The lm-eval tasks of a subspace's rows, where they are not the study's."""
    section = builder.config.tasks.get(trained.group) or builder.config.fusion
    return section.evaluate if section is not None else None
