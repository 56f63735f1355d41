"""The section of a study's configuration for the data sets that ``realign data`` makes."""

from __future__ import annotations

from typing import Final, Literal

import pydantic
from pydantic import Field

from realign_plugin.lab.study.config.sections import Names, Section

SFT: Final = ("share", "of")
ON_POLICY: Final = (
    "prompts",
    "benign",
    "skill",
    "evaluation",
    "skill_limit",
    "max_tokens",
    "skill_max_tokens",
    "batch_size",
)
FOREIGN: Final = {
    "preference": ("task", "refusals", *SFT, *ON_POLICY),
    "contrast": ("task", "split", *SFT, *ON_POLICY),
    "sft": ("split", "refusals", *ON_POLICY),
    "on_policy": ("source", "split", "refusals", *SFT),
}
"""Options that a kind of data set does not have."""
NEEDED: Final = {"sft": "task", "contrast": "source", "on_policy": "prompts"}
SOURCES: Final = ("prompts", "benign", "skill", "evaluation")
"""Options of ``on_policy`` that name prompts."""


class DataSet(Section):
    """A data set that ``realign data`` makes; the options are that command's.

    Attributes:
        kind: ``preference``, ``contrast``, ``sft`` or ``on_policy``.
        task: For ``sft``: which task. For ``on_policy``: which task's model answers; default: the only one.
        source: Hub id or file.
        split: Split of a hub data set.
        validation: Share of the prompts that is held out as ``NAME_validation``.
        limit: At most so many rows.
        seed: Of the choice of rows and the split.
        refusals: File of refusals, for ``contrast``.
        share: For ``sft``: share of the sum with ``of``.
        of: Data set that ``share`` counts with.
        prompts: For ``on_policy``: harmful prompts; files, hub ids, or other data sets of the study.
        benign: Harmless prompts, preferably ones that sound dangerous.
        skill: Prompts of the new skill, with answers or without.
        evaluation: Further files of prompts that are measured with, none of which may be among the others.
        skill_limit: Keep at most this many prompts of the skill.
        max_tokens: Maximum tokens of an answer to a safety prompt.
        skill_max_tokens: Maximum tokens of an answer to a prompt of the skill.
        batch_size: How many prompts are answered at a time.
    """

    kind: Literal["preference", "contrast", "sft", "on_policy"]
    task: str | None = None
    source: str | None = None
    split: str | None = None
    validation: float | None = None
    limit: int | None = None
    seed: int | None = None
    refusals: str | None = None
    share: float | None = None
    of: str | None = None
    prompts: Names | None = None
    benign: Names | None = None
    skill: Names | None = None
    evaluation: Names | None = None
    skill_limit: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    skill_max_tokens: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)

    @pydantic.model_validator(mode="after")
    def _own_options(self) -> DataSet:
        """Refuse options that the kind of data set does not have."""
        given = [name for name in FOREIGN[self.kind] if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{self.kind} has no {given[0]}; leave it out")
        needed = NEEDED.get(self.kind)
        if needed is not None and not getattr(self, needed):
            raise ValueError(f"{self.kind} needs {needed}; add it")
        return self

    @property
    def held_back(self) -> float:
        """Share of the prompts that is held out."""
        usual = 0.1 if self.kind in ("preference", "on_policy") else 0.0  # what `realign data` does by itself
        return usual if self.validation is None else self.validation
