"""What a repair is given, and where its files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

Method = Literal["masks", "lora"]
METHODS: Final[tuple[Method, ...]] = ("masks", "lora")


@dataclass(frozen=True)
class Budget:
    """The budget.

    Attributes:
        harmful: Harmful prompts to train on, at most.
        benign: Benign prompts to train on, at most.
        skill: Rows of the skill to train on, at most.
        validation: Prompts of each kind, and rows of the skill, that the strength is chosen on, at most.
        test: Of each kind that before and after are measured on, at most, where no test set is given.
        steps: Steps of a training.
        strengths: Strengths to choose among; 1 is the trained adapter, 0 the fine-tuned one.
        options: Of each method's training. Fewer steps need a higher rate; why LoRA weights the first token
            more, and masks do not: docs/results.md.
        answer_tokens: Tokens of an answer to a safety prompt, at most. Refusals show early.
    """

    harmful: int
    benign: int
    skill: int
    validation: int
    test: int
    steps: int
    strengths: tuple[float, ...]
    options: Mapping[Method, Mapping[str, float]]
    answer_tokens: int = 64


MASKS: Final = {"learning_rate": 0.1}
LORA: Final = {"learning_rate": 1e-4}
QUICK_LORA: Final = {"learning_rate": 3e-4, "distill_first_weight": 5.0}
BUDGETS: Final[Mapping[str, Budget]] = {
    "quick": Budget(120, 128, 64, 32, 100, 40, (1.0, 0.75), {"masks": MASKS, "lora": QUICK_LORA}, answer_tokens=20),
    "standard": Budget(240, 160, 240, 64, 200, 80, (1.0, 0.75, 0.5), {"masks": MASKS, "lora": LORA}),
    "thorough": Budget(1000, 600, 1000, 128, 400, 300, (1.0, 0.9, 0.75, 0.6, 0.4), {"masks": MASKS, "lora": LORA}),
}
ROWS: Final = 8
"""Rows of a training step."""
WRITTEN: Final = ("before_after.json", "README.md", "report.html", "study.yaml")
"""Files that a repair writes next to the adapter."""
CUTOFF: Final = 512
"""Tokens of a training row, at most."""
SKILL_TOKENS: Final = 256
"""Tokens of an answer to a prompt of the skill, at most, where the skill's data has none."""

CPU_BATCH: Final = 64
GPU_BATCH: Final = 128
"""Prompts answered at a time; halved where they do not fit."""


def default_batch_size() -> int:
    """Prompts answered at a time on this machine."""
    import torch

    return GPU_BATCH if torch.cuda.is_available() else CPU_BATCH


class Inputs(BaseModel):
    """What the user gave.

    Attributes:
        base: The base model, a chat model: a folder or a hub id.
        adapter: LoRA adapter of the fine-tuned model.
        aligned: LoRA adapter of the aligned model; None where the base model itself is aligned.
        prompts: Sources of harmful prompts.
        benign: Sources of harmless prompts.
        skill: Sources of the skill's rows.
        test: Harmful prompts to measure with; none: some of ``prompts`` are held back.
        test_benign: Harmless prompts to measure with; none: some of ``benign`` are held back.
        test_skill: Rows of the skill to measure with; none: some of ``skill`` are held back.
        budget: Key of ``BUDGETS``.
        methods: What is trained; the one that is best on the validation prompts is kept.
        template: LLaMA-Factory's name; None: detected from the tokenizer.
        judge: Model that judges the answers; None: refusals are detected by phrases.
        seed: Seed of the choice of prompts and of the trainings.
        files: What the base, the adapters and each source that is a file are known by.
    """

    model_config = ConfigDict(frozen=True)

    base: str
    adapter: Path
    aligned: Path | None = None
    prompts: tuple[str, ...]
    benign: tuple[str, ...]
    skill: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    test_benign: tuple[str, ...] = ()
    test_skill: tuple[str, ...] = ()
    budget: str = "standard"
    methods: tuple[Method, ...] = METHODS
    template: str | None = None
    judge: str | None = None
    seed: int = 0
    files: dict[str, str]

    @property
    def resolved(self) -> Inputs:
        """The same with the real path of each file and folder, however the user named it."""
        sources = ("prompts", "benign", "skill", "test", "test_benign", "test_skill")
        changes: dict[str, Any] = {name: tuple(map(_real, getattr(self, name))) for name in sources}
        changes |= {"base": _real(self.base), "adapter": Path(_real(self.adapter))}
        changes |= {"aligned": Path(_real(self.aligned))} if self.aligned else {}
        changes |= {"files": {_real(name): known for name, known in self.files.items()}}
        return self.model_copy(update=changes)

    @property
    def spent(self) -> Budget:
        """The budget's numbers."""
        return BUDGETS[self.budget]


def _real(name: str | Path) -> str:
    """The real path of a file or a folder; a hub id or a task's name as it is."""
    return os.path.realpath(name) if os.path.exists(name) else str(name)


class Folders:
    """Where a repair's files are.

    Attributes:
        out: What the user named: the repaired adapter, the table and the report.
        work: Everything that was made on the way; laid out as a study's folder is.
        data: LLaMA-Factory's data sets.
        models: Trained and exported adapters.
        measured: Answers and what was measured.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / "work"
        self.data, self.models, self.measured = (self.work / name for name in ("data", "models", "measured"))
