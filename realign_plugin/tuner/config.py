"""Configuration of the PEFT type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType
from torch import nn

from realign_plugin.errors import UserError
from realign_plugin.subspace.files import check_folder
from realign_plugin.subspace.hub import fetched
from realign_plugin.subspace.spec import SubspaceSpec


@dataclass
class SafetySubspaceConfig(SubspaceSpec, PeftConfig):  # type: ignore[misc]
    """A :class:`~realign_plugin.subspace.spec.SubspaceSpec` as a ``PeftConfig``; both are one JSON object on disk.

    Raises:
        UserError: If a field means nothing.
    """

    def __post_init__(self) -> None:
        """Set the type and check the values."""
        try:
            PeftConfig.__post_init__(self)
        except ValueError as error:
            raise UserError(f"task_type: {error}") from error
        self.peft_type = PeftType("SAFETY_SUBSPACE")
        self.check()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any) -> Any:
        """Read a configuration, once the whole adapter is known to be sound: PEFT loads what it finds, in silence.

        Args:
            pretrained_model_name_or_path: The adapter's folder, or its repository on the hub.
            subfolder: Where in it the adapter is.
            **kwargs: As for PEFT's own.

        Raises:
            UserError: If the configuration or a tensor is missing, corrupt, inconsistent or not finite.
        """
        options, _, _ = cls._split_kwargs(kwargs)
        check_folder(fetched(pretrained_model_name_or_path, subfolder, **options))
        return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that lacks a target module, or the module of a target parameter.

        Raises:
            UserError: With the first one that it lacks.
        """
        names = [f".{name}" for name, _ in model.named_modules()]
        targets = [*(self.target_modules or ()), *(name.partition(".base_layer")[0] for name in self.parameters)]
        if lost := [target for target in targets if not any(name.endswith(f".{target}") for name in names)]:
            raise UserError(
                f"adapter: target module {lost[0]} is not in {type(model).__name__}, expected the base model that the "
                "adapter was trained on; give that one"
            )

    @classmethod
    def from_spec(cls, spec: SubspaceSpec, **peft_fields: Any) -> SafetySubspaceConfig:
        """A configuration with the values of a spec.

        Args:
            spec: The subspace's description.
            **peft_fields: PEFT's own fields, e.g. ``base_model_name_or_path``.
        """
        return cls(**(vars(spec) | {"task_type": "CAUSAL_LM"} | peft_fields))
