"""Makes peft know ``SAFETY_SUBSPACE`` as soon as peft is imported."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from realign_plugin.subspace.files import PREFIX

NAME = "SAFETY_SUBSPACE"
FUNCTION = "get_peft_model_state_dict"


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
        name=NAME.lower(), config_cls=SafetySubspaceConfig, model_cls=SafetySubspaceModel, prefix=PREFIX
    )
    save_own_tensors_only()


def save_own_tensors_only() -> None:
    """Keep other adapters' tensors out of a saved one; peft 0.18 takes every tensor with the method's prefix."""
    from peft.utils import get_peft_model_state_dict as stock

    @functools.wraps(stock)
    def get_peft_model_state_dict(
        model: Any, state_dict: Any = None, adapter_name: str = "default", *args: Any, **kwargs: Any
    ) -> Any:
        inner = getattr(model, "_orig_mod", model)
        others = {name for name in inner.peft_config if name != adapter_name}
        if others and inner.peft_config[adapter_name].peft_type == NAME:
            state = inner.state_dict() if state_dict is None else state_dict
            foreign = {key for key in state if PREFIX in key and key.rpartition(".")[2] in others}
            state_dict = {key: tensor for key, tensor in state.items() if key not in foreign}
        return stock(model, state_dict, adapter_name, *args, **kwargs)

    everywhere = [module for name, module in sys.modules.items() if name.partition(".")[0] == "peft"]
    for module in everywhere:
        if vars(module).get(FUNCTION) is stock:
            setattr(module, FUNCTION, get_peft_model_state_dict)
