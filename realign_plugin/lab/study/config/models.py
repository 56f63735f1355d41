"""The sections of a study's configuration for its models, and how each is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from realign_plugin.lab.study.config.sections import Arguments, Names, Section, Seeds, SomeNames, empty


class Prepare(Section):
    """A user's own step, before or after the study: a shell command, or a training.

    Attributes:
        name: Of the step.
        command: Shell command.
        train: Or: arguments for ``llamafactory-cli train``; ``output_dir`` is among them.
        creates: Files that it must leave behind.
        inputs: Files that it reads, such as the script that it runs: changed ones make it run again.
        title: Printed when it starts; ``says`` means the same.
        threads: Processor threads; default: 1 for a command, for a training as many as for the others.
    """

    name: str
    command: str | None = None
    train: Arguments | None = None
    creates: Names = Field(default_factory=list)
    inputs: Names = Field(default_factory=list)
    title: str = Field("", validation_alias=AliasChoices("title", "says"))
    threads: int | None = Field(None, ge=1)


class AlignStep(Section):
    """One training of the alignment.

    Attributes:
        stage: ``sft`` or ``dpo``.
        dataset: LLaMA-Factory's names.
        train: What differs from the recipe.
        threads: Processor threads; default: ``machine.threads``. Nothing else runs during an alignment.
    """

    stage: Literal["sft", "dpo"]
    dataset: SomeNames
    train: Arguments = Field(default_factory=dict)
    threads: int | None = Field(None, ge=1)


class Align(Section):
    """How the aligned model comes about.

    Attributes:
        adapter: LoRA adapter of a model that is aligned already.
        model: Or its checkpoint (``adaptation: full``).
        steps: Or the trainings that align ``model``, one after the other.
    """

    adapter: Path | None = None
    model: Path | None = None
    steps: list[AlignStep] = Field(default_factory=list)


class Task(Section):
    """One fine-tuned model.

    Attributes:
        dataset: Data sets that the skill is learnt from.
        adapter: Or: LoRA adapter of a model that is fine-tuned already.
        model: Or its checkpoint (``adaptation: full``).
        label: What the tables call the task.
        title: What the tables call the fine-tuned model itself.
        train: What differs from the recipe.
        pairs: Preference pairs of its realignment; default: those of ``realign``.
        answers: Data sets of its realignment by SFT; default: those of ``realign``, else its pairs' chosen answers.
        safety: Safety prompts of its self-distillation; default: those of ``realign``.
        skill: Prompts of its skill; default: those of ``realign``.
        methods: Which methods realign it; default: all.
        evaluate: lm-eval tasks in place of ``evaluate.tasks``.
    """

    dataset: SomeNames | None = None
    adapter: Path | None = None
    model: Path | None = None
    label: str | None = None
    title: str = "fine-tuned"
    train: Arguments = Field(default_factory=dict)
    pairs: Names | None = None
    answers: Names | None = None
    safety: Names | None = None
    skill: Names | None = None
    methods: Names | None = None
    evaluate: Names | None = None


class Realign(Section):
    """What realignment learns from; default: the task's own on-policy data, if the study makes some.

    Attributes:
        pairs: Preference pairs (ranking data sets), a third each of harmful, benign and skill prompts.
        answers: What realignment by SFT learns from; default: the chosen answers of the pairs.
        safety: What self-distillation learns from the aligned model: its answers to safety prompts.
        skill: What it learns from the fine-tuned model: answers to prompts of the new skill.
    """

    pairs: Names = Field(default_factory=list)
    answers: Names = Field(default_factory=list)
    safety: Names = Field(default_factory=list)
    skill: Names = Field(default_factory=list)


class Method(Section):
    """A way to realign one fine-tuned model.

    Attributes:
        kind: ``mask_dpo``, ``safety_distill`` (masks) or ``safety_distill_lora``; ``sft``, ``dpo`` or both one after
            the other; or a merge without training.
        label: What the tables call it.
        masks: Masks that a subspace is exported with.
        strengths: Of a merge; of several the best on the validation prompts is taken (``evaluate.choose``).
        train: What differs from the recipe.
        seeds: Seeds of the training; default: the study's.
    """

    kind: Names = Field(default_factory=list)
    label: str | None = None
    masks: SomeNames = Field(default_factory=lambda: ["soft"])
    strengths: list[float] = Field(default_factory=list)
    train: Arguments = Field(default_factory=dict)
    seeds: Seeds | None = None


class FusionMethod(Section):
    """One way to fuse several fine-tuned models.

    Attributes:
        kind: ``task_arithmetic``, ``average``, ``ties`` or ``dare``; default: the entry's name.
        label: What the tables call it.
        options: ``task_weight``, ``ties_density``, ``dare_drop_rate``, ``fusion_seed``, for the plain fusion and
            for the training.
        train: What else differs from the recipe.
    """

    kind: str | None = None
    label: str | None = None
    options: Arguments = Field(default_factory=dict)
    train: Arguments = Field(default_factory=dict)


class Fusion(Section):
    """Several fine-tuned models in one, plain and realigned.

    Attributes:
        tasks: Which tasks; default: all.
        label: What the tables call the group.
        methods: Fusions: ``task_arithmetic``, ``average``, ``ties``, ``dare``.
        realign: Methods that train masks (``mask_dpo``, ``safety_distill``) which realign each.
        pairs: Preference pairs; default: those of ``realign``.
        evaluate: lm-eval tasks in place of ``evaluate.tasks``.
    """

    tasks: Names | None = None
    label: str = "fused"
    methods: dict[str, Annotated[FusionMethod, BeforeValidator(empty)]] = Field(default_factory=dict)
    realign: Names = Field(default_factory=lambda: ["paper"])
    pairs: Names | None = None
    evaluate: Names | None = None
