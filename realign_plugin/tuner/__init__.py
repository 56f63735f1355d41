"""The PEFT type ``SAFETY_SUBSPACE``, laid out as peft's own tuners are."""

import peft  # first: its hook imports the modules below as soon as peft is there

from realign_plugin.tuner.attach import attach_subspace
from realign_plugin.tuner.config import SafetySubspaceConfig
from realign_plugin.tuner.hook import attach
from realign_plugin.tuner.layer import SafetySubspaceLayer
from realign_plugin.tuner.linear import SafetySubspaceLinear
from realign_plugin.tuner.model import SafetySubspaceModel

__all__ = [
    "SafetySubspaceConfig",
    "SafetySubspaceLayer",
    "SafetySubspaceLinear",
    "SafetySubspaceModel",
    "attach_subspace",
]

attach(peft)  # whoever imports this wants the type, hooks or no hooks
