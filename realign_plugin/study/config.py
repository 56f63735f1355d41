"""What may stand in a study's configuration file, and its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Arguments = dict[str, Any]
"""Options of a stock command, by name."""


def _as_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _as_seeds(value: Any) -> Any:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _empty(value: Any) -> Any:
    return {} if value is None else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
"""Names, as a list or as one text with commas."""
SomeNames = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
"""The same, at least one."""
Seeds = Annotated[list[int], BeforeValidator(_as_seeds), Field(min_length=1)]
"""Seeds, as a list or as their number."""


class _Section(BaseModel):
    """A section that allows no key but its own."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Prepare(_Section):
    """A step of one's own, before or after the study: a shell command, or a training.

    Attributes:
        name: Of the step.
        command: Shell command.
        train: Or: arguments for ``llamafactory-cli train``; ``output_dir`` is among them.
        creates: Files that it must leave behind.
        says: What is said when it starts.
        threads: Processor threads.
    """

    name: str
    command: str | None = None
    train: Arguments | None = None
    creates: Names = Field(default_factory=list)
    says: str = ""
    threads: int = 1


class DataSet(_Section):
    """A data set that ``realign data`` makes; the options are that command's.

    Attributes:
        kind: ``preference``, ``contrast`` or ``sft``.
        task: For ``sft``: which task.
        source: Hub id or file.
        split: Split of a hub data set.
        validation: Share of the prompts that is held out as ``NAME_validation``.
        limit: At most so many rows.
        seed: Of the choice of rows and the split.
        refusals: File of refusals, for ``contrast``.
        share: For ``sft``: share of the sum with ``of``.
        of: Data set that ``share`` counts with.
    """

    kind: Literal["preference", "contrast", "sft"]
    task: str | None = None
    source: str | None = None
    split: str | None = None
    validation: float | None = None
    limit: int | None = None
    seed: int | None = None
    refusals: str | None = None
    share: float | None = None
    of: str | None = None

    @pydantic.model_validator(mode="after")
    def _own_options(self) -> DataSet:
        """Refuse options that the kind of data set does not have."""
        foreign = {
            "preference": ["task", "refusals", "share", "of"],
            "contrast": ["task", "split", "share", "of"],
            "sft": ["split", "refusals"],
        }
        given = [name for name in foreign[self.kind] if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{self.kind} has no {given[0]}; leave it out")
        if (self.kind == "sft" and self.task is None) or (self.kind == "contrast" and self.source is None):
            raise ValueError(f"{self.kind} needs {'task' if self.kind == 'sft' else 'source'}; add it")
        return self


class AlignStep(_Section):
    """One training of the alignment.

    Attributes:
        stage: ``sft`` or ``dpo``.
        dataset: LLaMA-Factory's names.
        train: What differs from the recipe.
        threads: Processor threads; default: ``machine.threads``. Nothing else runs beside an alignment.
    """

    stage: Literal["sft", "dpo"]
    dataset: SomeNames
    train: Arguments = Field(default_factory=dict)
    threads: int | None = Field(None, ge=1)


class Align(_Section):
    """How the aligned model comes about.

    Attributes:
        adapter: LoRA adapter of a model that is aligned already.
        model: Or its checkpoint (``adaptation: full``).
        steps: Or the trainings that align ``model``, one after the other.
    """

    adapter: Path | None = None
    model: Path | None = None
    steps: list[AlignStep] = Field(default_factory=list)


class Task(_Section):
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
    methods: Names | None = None
    evaluate: Names | None = None


class Realign(_Section):
    """What realignment learns from.

    Attributes:
        pairs: Preference pairs (ranking data sets), a third each of harmful, benign and skill prompts.
        answers: What realignment by SFT learns from; default: the chosen answers of the pairs.
    """

    pairs: Names = Field(default_factory=list)
    answers: Names = Field(default_factory=list)


class Method(_Section):
    """A way to realign one fine-tuned model.

    Attributes:
        kind: ``mask_dpo``; ``sft``, ``dpo`` or both one after the other; or a merge without training.
        label: What the tables call it.
        masks: Masks that a ``mask_dpo`` subspace is exported with.
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


class FusionMethod(_Section):
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


class Fusion(_Section):
    """Several fine-tuned models in one, plain and realigned.

    Attributes:
        tasks: Which tasks; default: all.
        label: What the tables call the group.
        methods: Fusions: ``task_arithmetic``, ``average``, ``ties``, ``dare``.
        realign: Methods (of kind ``mask_dpo``) that realign each.
        pairs: Preference pairs; default: those of ``realign``.
        evaluate: lm-eval tasks in place of ``evaluate.tasks``.
    """

    tasks: Names | None = None
    label: str = "fused"
    methods: dict[str, Annotated[FusionMethod, BeforeValidator(_empty)]] = Field(default_factory=dict)
    realign: Names = Field(default_factory=lambda: ["paper"])
    pairs: Names | None = None
    evaluate: Names | None = None


class Column(_Section):
    """A column of the tables.

    Attributes:
        task: lm-eval's task or group.
        metric: Its metric.
        label: Heading.
        axis: What it says something of.
        better: Which way is good.
    """

    task: str
    metric: str
    label: str
    axis: Literal["safety", "over-refusal", "skill", "other"]
    better: Literal["lower", "higher"] | None = None


class Choose(_Section):
    """How the best of several strengths is chosen: on other prompts than those that are reported.

    Attributes:
        metadata: lm-eval's metadata that name the validation prompts, on top of the usual ones.
        tasks: lm-eval tasks in place of ``evaluate.tasks``.
        columns: Labels of the columns that count; default: all that say which way is good.
    """

    metadata: Arguments = Field(default_factory=dict)
    tasks: Names | None = None
    columns: list[str] | None = None


class Evaluate(_Section):
    """What is measured, all by ``lm_eval``.

    Attributes:
        tasks: lm-eval's tasks and groups.
        model_args: Further ``--model_args``, e.g. ``dtype``.
        options: Further options of ``lm_eval``: ``limit``, ``batch_size``, ``device``, ``gen_kwargs`` ...
        metadata: ``--metadata``: the judge's settings, ``safety_data`` ...
        chat_template: Whether prompts go through the chat template.
        models_per_job: Models that one process measures; more than one saves its start.
        choose: How strengths are chosen.
        columns: The tables' columns; default: what the results hold.
    """

    tasks: SomeNames = Field(default_factory=lambda: ["safety", "safety_attack", "over_refusal", "realign_downstream"])
    model_args: Arguments = Field(default_factory=dict)
    options: Arguments = Field(default_factory=dict)
    metadata: Arguments = Field(default_factory=dict)
    chat_template: bool = True
    models_per_job: int = Field(1, ge=1)
    choose: Choose = Field(default_factory=Choose)
    columns: list[Column] = Field(default_factory=list)


class Poisoning(_Section):
    """Harmful rows in the fine-tuning set.

    Attributes:
        shares: Of harmful rows in the whole set.
        source: Where harmful answers come from (as for ``realign data sft --task harmful``).
        tasks: Which tasks; default: the first.
        methods: Which methods repair; default: the first of kind ``mask_dpo``.
    """

    shares: list[float] = Field(default_factory=lambda: [0.01, 0.05, 0.1])
    source: str | None = None
    tasks: Names | None = None
    methods: Names | None = None


class Pick(_Section):
    """An ablation of the training of masks.

    Attributes:
        values: What is tried.
        tasks: Which tasks; default: the first.
        methods: Which methods; default: the first of kind ``mask_dpo``.
    """

    values: list[Any] = Field(default_factory=list)
    tasks: Names | None = None
    methods: Names | None = None


class Topics(_Section):
    """Further prompt sets for the models that the study has.

    Attributes:
        evaluate: lm-eval tasks.
        tasks: Of which tasks the models are; default: the first.
    """

    evaluate: Names = Field(default_factory=lambda: ["safety_catqa_topics"])
    tasks: Names | None = None


class Ablations(_Section):
    """The paper's ablations; each is a target of its own and ends in a table.

    Attributes:
        poisoning: Harmful rows in the fine-tuning set.
        transfer: Masks on the vectors of other tasks (``values`` are not used).
        topics: CatQA topic by topic.
        data_efficiency: Realignment on few pairs; ``values``: numbers of pairs.
        granularity: One logit for each element, row, column or module.
        mask_kind: One training, exported with every kind of mask.
        strength: Every strength as a row; ``methods`` may be merges, or ``mask_dpo`` methods (mergekit's dial).
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
        """``transfer:`` with nothing behind it asks for the ablation as it is by default."""
        return {key: _empty(value) for key, value in values.items()} if isinstance(values, dict) else values


class Machine(_Section):
    """What one step may use.

    Attributes:
        threads: Processor threads of a training.
        evaluation_threads: Of an evaluation.
        gpus: GPUs of this machine to hand out, as ids or a number; none: the driver's or the scheduler's choice.
        gpus_per_training: GPUs of one training.
        gpus_per_evaluation: GPUs of one evaluation.
    """

    threads: int = Field(1, ge=1)
    evaluation_threads: int = Field(1, ge=1)
    gpus: Annotated[list[int], BeforeValidator(_as_seeds)] = Field(default_factory=list)
    gpus_per_training: int = Field(0, ge=0)
    gpus_per_evaluation: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _enough_gpus(self) -> Machine:
        """Refuse a step that would wait for more GPUs than there are."""
        wanted = max(self.gpus_per_training, self.gpus_per_evaluation)
        if self.gpus and (wanted > len(self.gpus) or min(self.gpus) < 0):
            raise ValueError(f"a step wants {wanted} of {len(self.gpus)} GPUs; give fewer a step, or more in all")
        return self


class StudyConfig(_Section):
    """A whole study.

    Attributes:
        title: Heading of the report.
        root: Folder that everything is written to.
        model: Base model: a folder or a hub id.
        unaligned: With ``align`` left out or full: the model before alignment, for the methods that need it.
        template: LLaMA-Factory's chat template; none: the tokenizer's own.
        adaptation: ``lora`` or ``full``.
        seeds: Seeds of the realignments; a number N stands for 0 to N - 1.
        prepare: Steps of one's own before everything else.
        finish: Steps of one's own after the tables.
        dataset_dir: LLaMA-Factory's data folder; default: ``root/data``.
        data: Data sets that ``realign data`` makes there.
        align: The aligned model; left out: ``model`` itself is aligned.
        tasks: The fine-tuned models.
        realign: What realignment learns from.
        methods: Ways to realign; those of the catalogue need no more than their name.
        fusion: Several fine-tuned models in one.
        train: Training arguments: ``all``, and by recipe ``sft``, ``dpo``, ``mask_dpo``, ``mask_dpo_fused``,
            ``rival_sft``, ``rival_dpo``.
        evaluate: What is measured.
        ablations: The paper's ablations.
        machine: What one step may use.
        vars: Anything, for other values to stand on as ``${vars.NAME}``.
    """

    title: str = "Safety realignment"
    root: Path
    model: str = Field(min_length=1)
    unaligned: str | None = None
    template: str | None = None
    adaptation: Literal["lora", "full"] = "lora"
    seeds: Seeds = Field(default_factory=lambda: [0])
    prepare: list[Prepare] = Field(default_factory=list)
    finish: list[Prepare] = Field(default_factory=list)
    dataset_dir: Path | None = None
    data: dict[str, DataSet] = Field(default_factory=dict)
    align: Align | None = None
    tasks: dict[str, Task]
    realign: Realign = Field(default_factory=Realign)
    methods: dict[str, Annotated[Method, BeforeValidator(_empty)]] = Field(default_factory=dict)
    fusion: Fusion | None = None
    train: dict[str, Arguments] = Field(default_factory=dict)
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate.model_validate({}))
    ablations: Ablations = Field(default_factory=Ablations)
    machine: Machine = Field(default_factory=lambda: Machine.model_validate({}))
    vars: Arguments = Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _dropped(cls, values: Any) -> Any:
        """Leave out methods, tasks and data sets that are set to false, so that a file can drop what it extends."""
        if not isinstance(values, dict):
            return values
        found = dict(values)
        for name in ("methods", "tasks", "data", "ablations"):
            if isinstance(found.get(name), dict):
                found[name] = {key: value for key, value in found[name].items() if value is not False}
        return found

    @pydantic.model_validator(mode="after")
    def _paths(self) -> StudyConfig:
        """Refuse paths that the stock commands would take for something else."""
        if self.root.resolve() == Path.cwd() or "," in f"{self.root}{self.model}" or "+" in str(self.root):
            raise ValueError(
                f"root {self.root} or model {self.model} has a comma or plus, or root is this folder; rename it"
            )
        return self

    @property
    def data_folder(self) -> Path:
        """LLaMA-Factory's data folder."""
        return self.dataset_dir or self.root / "data"
