"""Makes peft know ``SAFETY_SUBSPACE`` as soon as peft is imported."""

from __future__ import annotations

from types import ModuleType

NAME = "SAFETY_SUBSPACE"


def attach(peft: ModuleType) -> None:
    """Add the member to ``PeftType`` and register the method.

    ``PeftType`` is a closed ``str`` Enum, so the member is put into its tables by hand; a peft that knows the type is
    left alone.

    Args:
        peft: The imported package.
    """
    from peft.utils import register_peft_method
    from peft.utils.peft_types import PeftType

    from realign_plugin.tuner.config import SafetySubspaceConfig
    from realign_plugin.tuner.model import SafetySubspaceModel

    if NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)
    register_peft_method(
        name=NAME.lower(), config_cls=SafetySubspaceConfig, model_cls=SafetySubspaceModel, prefix="safety_subspace_"
    )
