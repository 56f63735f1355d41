"""The sections of a study's configuration for what is measured, and which questions are asked."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import Field

from realign_plugin.lab.records import Axis, Better, Column
from realign_plugin.lab.study.config.sections import Arguments, Names, Section, SomeNames, empty


class ColumnSection(Section):
    """A column of the tables.

    Attributes:
        task: lm-eval's task or group.
        metric: Its metric.
        label: Heading.
        axis: What it measures.
        better: Which way is good.
    """

    task: str
    metric: str
    label: str
    axis: Axis
    better: Better | None = None

    def column(self) -> Column:
        """The column of the tables."""
        return Column.of(self.task, self.metric, self.label, self.axis, self.better)


class Choose(Section):
    """How the best of several strengths is chosen: on other prompts than those that are reported.

    Attributes:
        metadata: lm-eval's metadata that name the validation prompts, on top of the usual ones.
        tasks: lm-eval tasks in place of ``evaluate.tasks``.
        columns: Labels of the columns that count; default: all with a known direction.
    """

    metadata: Arguments = Field(default_factory=dict)
    tasks: Names | None = None
    columns: list[str] | None = None


class Evaluate(Section):
    """What is measured, all by ``lm_eval``.

    Attributes:
        tasks: lm-eval's tasks and groups.
        model_args: Further ``--model_args``, e.g. ``dtype``.
        options: Further options of ``lm_eval``: ``limit``, ``batch_size``, ``device``, ``gen_kwargs`` ...
        metadata: ``--metadata``: the judge's settings, ``safety_data`` ...
        chat_template: Whether prompts go through the chat template.
        inputs: Files that measuring reads besides models, prompts and tasks: changed ones make it run again.
        models_per_job: Models that one process measures; more than one saves its start.
        agreement: Whether answers are compared with the aligned model's, which is then measured first.
        choose: How strengths are chosen.
        columns: The tables' columns; default: what the results hold.
    """

    tasks: SomeNames = Field(default_factory=lambda: ["safety", "safety_attack", "over_refusal", "realign_downstream"])
    model_args: Arguments = Field(default_factory=dict)
    options: Arguments = Field(default_factory=dict)
    metadata: Arguments = Field(default_factory=dict)
    chat_template: bool = True
    inputs: Names = Field(default_factory=list)
    models_per_job: int = Field(1, ge=1)
    agreement: bool = True
    choose: Choose = Field(default_factory=Choose)
    columns: list[ColumnSection] = Field(default_factory=list)


class Poisoning(Section):
    """Harmful rows in the fine-tuning set.

    Attributes:
        shares: Of harmful rows in the whole set.
        source: Where harmful answers come from (as for ``realign data sft --task harmful``).
        tasks: Which tasks; default: the first.
        methods: Which methods repair; default: the first that trains masks.
    """

    shares: list[float] = Field(default_factory=lambda: [0.01, 0.05, 0.1])
    source: str | None = None
    tasks: Names | None = None
    methods: Names | None = None


class Pick(Section):
    """An ablation of the training of masks.

    Attributes:
        values: What is tried.
        tasks: Which tasks; default: the first.
        methods: Which methods; default: the first that trains masks.
    """

    values: list[Any] = Field(default_factory=list)
    tasks: Names | None = None
    methods: Names | None = None


class Topics(Section):
    """Further prompt sets for the models that the study has.

    Attributes:
        evaluate: lm-eval tasks.
        tasks: Of which tasks the models are; default: the first.
    """

    evaluate: Names = Field(default_factory=lambda: ["safety_catqa_topics"])
    tasks: Names | None = None


class Ablations(Section):
    """The paper's ablations; each is a target of its own and ends in a table.

    Attributes:
        poisoning: Harmful rows in the fine-tuning set.
        transfer: Masks on the vectors of other tasks (``values`` are not used).
        topics: CatQA topic by topic.
        data_efficiency: Realignment on few pairs; ``values``: numbers of pairs.
        granularity: One logit for each element, row, column or module.
        mask_kind: One training, exported with every kind of mask.
        strength: Every strength as a row; ``methods`` may be merges, or methods that train masks (mergekit's dial).
    """

    poisoning: Poisoning | None = None
    transfer: Pick | None = None
    topics: Topics | None = None
    data_efficiency: Pick | None = None
    granularity: Pick | None = None
    mask_kind: Pick | None = None
    strength: Pick | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _named_alone(cls, values: Any) -> Any:
        """``transfer:`` without a value asks for the ablation as it is by default."""
        return {key: empty(value) for key, value in values.items()} if isinstance(values, dict) else values
