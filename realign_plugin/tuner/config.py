"""Configuration of the PEFT type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

from realign_plugin.spec import SubspaceSpec


@dataclass
class SafetySubspaceConfig(SubspaceSpec, PeftConfig):  # type: ignore[misc]
    """A :class:`~realign_plugin.spec.SubspaceSpec` as a ``PeftConfig``; both are one JSON object on disk.

    Raises:
        UserError: If a field means nothing.
    """

    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave out, as in LoRA."}
    )

    def __post_init__(self) -> None:
        """Set the type and check the values."""
        PeftConfig.__post_init__(self)
        self.peft_type = PeftType("SAFETY_SUBSPACE")
        self.check()

    @classmethod
    def from_spec(cls, spec: SubspaceSpec, **peft_fields: Any) -> SafetySubspaceConfig:
        """A configuration with the values of a spec.

        Args:
            spec: The subspace's description.
            **peft_fields: PEFT's own fields, e.g. ``base_model_name_or_path``.
        """
        return cls(**(vars(spec) | {"task_type": "CAUSAL_LM"} | peft_fields))
