"""The reference that a study's models are compared with, answer by answer: the aligned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realign_plugin.evaluation.prompt_sets import prompt_sets
from realign_plugin.lab.records import Model
from realign_plugin.lab.study.config.sections import Arguments

METRIC: Final = "agreement"
ITSELF: Final = "the model that the others are compared with"


@dataclass(frozen=True)
class Reference:
    """The samples that answers are compared with.

    Attributes:
        model: Whose they are.
        folder: Where they are, as commands name it.
        step: The step that makes them; empty while it is being planned.
    """

    model: Model
    folder: str
    step: str


def reference_model(models: Mapping[str, Model]) -> Model | None:
    """The aligned model of a study; the base where that is aligned itself."""
    return models.get("aligned") or models.get("base")


def compared(tasks: Sequence[str], reference: Sequence[str], include: Path | None) -> bool:
    """Whether a model's answers can be compared: it has prompts of ours, and the reference answers all of them."""
    mine, others = ({part.name for part in prompt_sets(names, include)} for names in (tasks, reference))
    return bool(mine) and mine <= others


def metadata(reference: Reference) -> Arguments:
    """lm-eval's metadata that compare a model with the reference: refusals by their words, no further judging."""
    return {"reference": reference.folder, "judge_preference": False}
