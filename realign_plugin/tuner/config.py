"""Configuration of the PEFT type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

from realign_plugin.errors import UserError
from realign_plugin.subspace.files import check_folder
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME
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
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if not (folder / CONFIG_NAME).is_file():
            from huggingface_hub import hf_hub_download

            options, _, _ = cls._split_kwargs(kwargs)
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                file = hf_hub_download(pretrained_model_name_or_path, name, subfolder=subfolder, **options)
                folder = Path(file).parent
        check_folder(folder)
        return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)

    @classmethod
    def from_spec(cls, spec: SubspaceSpec, **peft_fields: Any) -> SafetySubspaceConfig:
        """A configuration with the values of a spec.

        Args:
            spec: The subspace's description.
            **peft_fields: PEFT's own fields, e.g. ``base_model_name_or_path``.
        """
        return cls(**(vars(spec) | {"task_type": "CAUSAL_LM"} | peft_fields))
