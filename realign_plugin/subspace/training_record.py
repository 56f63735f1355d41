"""Which training a checkpoint is of: what is recorded in it, and compared before a run goes on from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.subspace.fingerprints import differing
from realign_plugin.subspace.options import FUSION_OPTIONS
from realign_plugin.subspace.spec import SubspaceSpec

KEY: Final = "realign_plugin"
"""Where the record is among a trainer state's ``stateful_callbacks``."""
BUILDING_OPTIONS: Final = (*FUSION_OPTIONS, "mask_granularity", "mask_init")
"""How a subspace was built; it stays so."""
OPTIONS: Final = (*BUILDING_OPTIONS, "task_weight", "vector_space", "lora_target")
"""Which options have to be the same."""


@dataclass(frozen=True)
class TrainingRecord:
    """What a run has to have in common with the one whose checkpoint it goes on from.

    Attributes:
        stage: The stage.
        finetuning_type: ``safety_subspace``, or ``lora``.
        options: How the subspace was built, by the names of the options.
        sources: Provenance of the adapters or models, as in ``SubspaceSpec``.
        base_sha256: The base model's fingerprint, as far as it is known when the run starts.
        start: sha256 of the trained subspace that the run started from, if any.
    """

    stage: str
    finetuning_type: str
    options: dict[str, Any]
    sources: list[dict[str, Any]]
    base_sha256: dict[str, str]
    start: str | None = None

    @classmethod
    def of(cls, stage: str, finetuning_type: str, spec: SubspaceSpec, start: str | None = None) -> TrainingRecord:
        """The record of a run, by what it trains; see the attributes."""
        values = vars(spec) | {"task_weight": list(spec.task_weights)}
        options = {name: values[name] for name in OPTIONS}
        return cls(stage, finetuning_type, options, list(spec.sources), dict(spec.base_sha256), start)

    @classmethod
    def read(cls, stateful_callbacks: Any) -> TrainingRecord | None:
        """The record in a trainer's state; None if there is none that this version can read."""
        try:
            return cls(**stateful_callbacks[KEY])
        except (KeyError, TypeError):
            return None

    def check(self, found: TrainingRecord | None, checkpoint: str, fix: str) -> None:
        """Refuse to go on from another training's checkpoint.

        Args:
            found: The checkpoint's record.
            checkpoint: What the user calls it; the error message starts with it.
            fix: What to do instead; the error message ends with it.

        Raises:
            UserError: With the first difference.
        """
        if found is None:
            raise UserError(
                f"{checkpoint} does not say which training it is of (another tool's, or an earlier version's), "
                f"expected one of this training; {fix}"
            )
        for (theirs, shown), (ours, expected) in zip(found._facts(), self._facts(), strict=True):
            if theirs != ours:
                raise UserError(f"{checkpoint} is of a training with {shown}, expected {expected}; {fix}")
        if (part := differing(found.base_sha256, self.base_sha256)) is not None:
            raise UserError(
                f"{checkpoint} is of a training with another base model (sha256 of its {part}: "
                f"{found.base_sha256[part][:12]}…), expected {self.base_sha256[part][:12]}…; {fix}"
            )

    def _facts(self) -> list[tuple[Any, str]]:
        """What is compared, each with its name."""
        sources = ", ".join(f"{s.get('name')} (sha256 {str(s.get('sha256'))[:8]}…)" for s in self.sources)
        return [
            (self.stage, f"stage: {self.stage}"),
            (self.finetuning_type, f"finetuning_type: {self.finetuning_type}"),
            ([(s.get("role"), s.get("sha256")) for s in self.sources], f"the sources {sources}"),
            *((self.options.get(name), f"{name}: {self.options.get(name)!r}") for name in OPTIONS),
            (self.start, f"adapter_name_or_path: {f'sha256 {self.start[:8]}…' if self.start else None}"),
        ]
