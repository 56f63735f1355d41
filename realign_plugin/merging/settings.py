"""What a merge configuration holds: the models that it lists, and the values of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter, MergeConfiguration
from mergekit.merge_methods.base import ParameterSpec
from pydantic import ValidationError

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.merging.safe_updates import ADAPTERS, ROLES
from realign_plugin.method.choices import MASK_KINDS

RANGES: Final = {"strength": (0.0, 2.0), "threshold": (-1.0, 1.0), "weight": (0.0, 1.0)}
GRADIENTS: Final = ("strength", "threshold", "weight")
"""Parameters of which a list is a gradient over the layers, as everywhere in mergekit."""
KINDS: Final = {"seed": "a whole number", "check_base": "true or false"} | dict.fromkeys(GRADIENTS, "a number")


def listed_models(config: MergeConfiguration) -> Iterator[tuple[ModelReference, Mapping[str, Any]]]:
    """All models that are listed, with their own parameters."""
    for model in config.models or []:
        yield model.model, model.parameters or {}
    slices = [*(config.slices or [])]
    for module in (config.modules or {}).values():
        slices += module.slices or []
        for model in module.models or []:
            yield model.model, model.parameters or {}
    for part in slices:
        for source in part.sources:
            yield source.model, source.parameters or {}


def shared_settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """The parameter settings that do not belong to a single model."""
    yield from (config.parameters or {}).items()
    slices = [*(config.slices or [])]
    for module in (config.modules or {}).values():
        yield from (module.parameters or {}).items()
        slices += module.slices or []
    for part in slices:
        yield from (part.parameters or {}).items()


def all_settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """All parameter settings of the configuration, wherever they are."""
    yield from shared_settings(config)
    for _, parameters in listed_models(config):
        yield from parameters.items()


def check_setting(method: str, parameter: ParameterSpec, setting: Any) -> None:
    """Refuse what is of another kind or out of range, and lists that mergekit would take for a gradient.

    Args:
        method: Name of the merge method.
        parameter: The parameter.
        setting: Its raw setting: a value, a list, or values by filter.

    Raises:
        UserError: With the value and what was expected.
    """
    name, values = parameter.name, [setting]
    if isinstance(setting, ConditionalParameter):
        values = [setting.value]
    elif isinstance(setting, list) and setting and all(isinstance(part, ConditionalParameter) for part in setting):
        values = [part.value for part in setting]
    if values != [setting] and name in ("adapter", "check_base", "role", *ADAPTERS):
        raise UserError(f"{name}: is given by filter, expected one value for the whole model; give a single one")
    for value in values:
        if isinstance(value, list) and (name not in GRADIENTS or not value):
            raise UserError(
                f"{name}: {value!r} is a list, which mergekit would spread over the layers, expected one value; give "
                "one (several task adapters are fused when the subspace is trained)"
            )
        for part in value if isinstance(value, list) else [value]:
            _check_value(method, parameter, part)


def _check_value(method: str, parameter: ParameterSpec, value: Any) -> None:
    name = parameter.name
    if name == "mask":
        check_choice("mask", value, MASK_KINDS)
    if name == "role":
        check_choice("role", value, [role for role in ROLES if method != "safe_lora" or role != "safe"])
    try:
        number = parameter.validate(value)
    except ValidationError:
        raise UserError(f"{name}: {value!r}, expected {KINDS.get(name, 'a path')}; correct it") from None
    if name == "threshold" and method == "safety_subspace":
        check_range(name, number, 0.0, 1.0, low_open=True)
    elif name in RANGES:
        check_range(name, number, *RANGES[name])


def check_layers(config: MergeConfiguration) -> None:
    """Refuse slices that move a layer: masks and adapters are matched to layers by number.

    Raises:
        UserError: With the model and its range of layers.
    """
    groups = [config.slices or [], *(module.slices or [] for module in (config.modules or {}).values())]
    for slices in groups:
        first = 0
        for part in slices:
            for source in part.sources:
                start, end = source.layer_range
                if start != first:
                    raise UserError(
                        f"slices: layers {start} to {end} of {source.model} would become layer {first} and on, "
                        "expected every layer in its own place, since masks and adapters are matched by its number; "
                        "merge "
                        "first, then rearrange with passthrough"
                    )
            first += part.sources[0].layer_range[1] - part.sources[0].layer_range[0]
