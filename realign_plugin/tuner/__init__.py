"""The PEFT type ``SAFETY_SUBSPACE``, laid out as peft's own tuners are."""

from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.layer import SafetySubspaceLayer, SafetySubspaceLinear
from realign_plugin.tuner.model import SafetySubspaceModel, attach_subspace

__all__ = [
    "SafetySubspaceConfig",
    "SafetySubspaceLayer",
    "SafetySubspaceLinear",
    "SafetySubspaceModel",
    "attach_subspace",
]
