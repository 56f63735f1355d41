"""A study's configuration as a whole, and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field

from realign_plugin.lab.study.config.data import DataSet
from realign_plugin.lab.study.config.measuring import Ablations, Evaluate
from realign_plugin.lab.study.config.models import Align, Fusion, Method, Prepare, Realign, Task
from realign_plugin.lab.study.config.sections import Arguments, Section, Seeds, as_seeds, empty


class Machine(Section):
    """What one step may use.

    Attributes:
        threads: Processor threads of a training; default: all cores, divided by the jobs that run at a time.
        evaluation_threads: Of an evaluation, and of answers for on-policy data; default: the same.
        gpus: GPUs of this machine to hand out, as ids or a number; none: the driver's or the scheduler's choice.
        gpus_per_training: GPUs of one training.
        gpus_per_evaluation: GPUs of one evaluation.
    """

    threads: int | None = Field(None, ge=1)
    evaluation_threads: int | None = Field(None, ge=1)
    gpus: Annotated[list[int], BeforeValidator(as_seeds)] = Field(default_factory=list)
    gpus_per_training: int = Field(0, ge=0)
    gpus_per_evaluation: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _enough_gpus(self) -> Machine:
        """Refuse a step that would wait for more GPUs than there are."""
        wanted = max(self.gpus_per_training, self.gpus_per_evaluation)
        if self.gpus and (wanted > len(self.gpus) or min(self.gpus) < 0):
            raise ValueError(f"a step wants {wanted} of {len(self.gpus)} GPUs; give fewer a step, or more in all")
        return self


def _renamed(train: Mapping[str, Any]) -> dict[str, Any]:
    """``rival_sft`` and ``rival_dpo``, which ``baseline_sft`` and ``baseline_dpo`` were called, under their names."""
    found = {key: value for key, value in train.items() if not key.startswith("rival_")}
    for key in train.keys() - found.keys():
        name = key.replace("rival_", "baseline_", 1)
        found[name] = (found.get(name) or {}) | (train[key] or {})
    return found


class StudyConfig(Section):
    """A whole study.

    Attributes:
        title: Heading of the report.
        root: Folder that everything is written to.
        model: Base model: a folder or a hub id.
        unaligned: With ``align`` left out or full: the model before alignment, for the methods that need it.
        template: LLaMA-Factory's chat template; none: the tokenizer's own.
        adaptation: ``lora`` or ``full``.
        seeds: Seeds of the realignments; a number N stands for 0 to N - 1.
        prepare: The user's own steps before everything else.
        finish: The user's own steps after the tables.
        dataset_dir: LLaMA-Factory's data folder; default: ``root/data``.
        data: Data sets that ``realign data`` makes there.
        align: The aligned model; left out: ``model`` itself is aligned.
        tasks: The fine-tuned models.
        realign: What realignment learns from.
        methods: Ways to realign; those of the catalogue need no more than their name.
        fusion: Several fine-tuned models in one.
        train: Training arguments: ``all``, ``lora``, and by recipe ``sft``, ``dpo``, ``mask_dpo``,
            ``mask_dpo_fused``, ``safety_distill``, ``safety_distill_lora``, ``baseline_sft``, ``baseline_dpo``.
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
    methods: dict[str, Annotated[Method, BeforeValidator(empty)]] = Field(default_factory=dict)
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
        if isinstance(found.get("train"), dict):
            found["train"] = _renamed(found["train"])
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
