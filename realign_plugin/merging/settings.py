"""What a merge configuration holds: the models that it lists, and the values of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter, MergeConfiguration
from mergekit.merge_methods.base import ParameterSpec
from pydantic import ValidationError

from realign_plugin.errors import UserError, check_choice, check_range
from realign_plugin.merging.safe_updates import ADAPTERS, ROLES
from realign_plugin.merging.slices import groups
from realign_plugin.method.choices import MASK_KINDS
from realign_plugin.subspace.spec import check_chosen_mask

RANGES: Final = {"strength": (0.0, 2.0), "threshold": (-1.0, 1.0), "weight": (0.0, 1.0)}
GRADIENTS: Final = ("strength", "threshold", "weight")
"""Parameters of which a list is a gradient over the layers, as everywhere in mergekit."""
WHOLE: Final = ("adapter", "check_base", *ADAPTERS)
"""Parameters that hold for the whole model: it is checked, and read, with one value."""
KINDS: Final = {"seed": "a whole number", "check_base": "true or false"} | dict.fromkeys(GRADIENTS, "a number")


def listed_models(config: MergeConfiguration) -> Iterator[tuple[ModelReference, Mapping[str, Any]]]:
    """All models that are listed, with their own parameters."""
    for group in groups(config):
        for source in group.sources:
            yield source.model, source.parameters or {}


def partial_settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """The parameter settings of slices and modules."""
    for module in (config.modules or {}).values():
        yield from (module.parameters or {}).items()
    for group in groups(config):
        if group.slice is not None:
            yield from (group.slice.parameters or {}).items()


def shared_settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """The parameter settings that do not belong to a single model."""
    yield from (config.parameters or {}).items()
    yield from partial_settings(config)


def all_settings(config: MergeConfiguration) -> Iterator[tuple[str, Any]]:
    """All parameter settings of the configuration, wherever they are."""
    yield from shared_settings(config)
    for _, parameters in listed_models(config):
        yield from parameters.items()


def conditions(setting: Any) -> list[ConditionalParameter]:
    """The values by filter that a setting holds; none where it is a plain value or a list of them."""
    parts = setting if isinstance(setting, list) else [setting]
    return parts if all(isinstance(part, ConditionalParameter) for part in parts) else []


def matches_all(part: ConditionalParameter) -> bool:
    """Whether a value holds for all tensors that none before it holds for."""
    return part.filter in (None, "*")


def values_of(setting: Any) -> list[Any]:
    """The values of a setting: one, or one of each filter; a list is one value."""
    return [part.value for part in conditions(setting)] or [setting]


def check_setting(method: str, parameter: ParameterSpec, setting: Any) -> None:
    """Refuse what is of another kind or out of range, and lists that mergekit would take for a gradient.

    Args:
        method: Name of the merge method.
        parameter: The parameter.
        setting: Its raw setting: a value, a list, or values by filter.

    Raises:
        UserError: With the value and what was expected.
    """
    name, values, parts = parameter.name, values_of(setting), conditions(setting)
    if parts and name in (*WHOLE, "role"):
        raise UserError(f"{name}: is given by filter, expected one value for the whole model; give a single one")
    if any(matches_all(part) for part in parts[:-1]):
        raise UserError(
            f"{name}: a value without a filter is not the last, so that mergekit reads none after it, expected it at "
            "the end; move it there"
        )
    for value in values:
        if isinstance(value, list) and (name not in GRADIENTS or not value):
            raise UserError(
                f"{name}: {value!r} is a list, which mergekit would spread over the layers, expected one value; give "
                "one (several task adapters are fused when the subspace is trained)"
            )
        for part in value if isinstance(value, list) else [value]:
            _check_value(method, parameter, part)


def check_mask_settings(config: MergeConfiguration, parameters: Mapping[str, ParameterSpec], saved: str) -> None:
    """Refuse a threshold or a seed that none of the masks has.

    Args:
        config: The configuration.
        parameters: The method's parameters.
        saved: The mask that the subspace was trained for.

    Raises:
        UserError: With the value and the mask.
    """
    settings = list(shared_settings(config))
    masks = {mask: None for name, setting in settings if name == "mask" for mask in values_of(setting)}
    whole = (config.parameters or {}).get("mask")
    if whole is None or (conditions(whole) and not matches_all(conditions(whole)[-1])):
        masks[saved] = None
    for name, setting in settings:
        if name in ("threshold", "seed"):
            value = values_of(setting)[0]
            number = parameters[name].validate(value[0] if isinstance(value, list) else value)
            faults = [fault for mask in masks if (fault := _mask_fault(mask, name, number))]
            if len(faults) == len(masks):
                raise faults[0]


def check_filters(config: MergeConfiguration, weights: Sequence[str]) -> None:
    """Refuse filters that no weight's name has in it.

    Args:
        config: The configuration.
        weights: Names of all weights that mergekit writes.

    Raises:
        UserError: With the filter.
    """
    for name, setting in shared_settings(config):
        for part in conditions(setting):
            if not matches_all(part) and not any(part.filter in weight for weight in weights):
                raise UserError(
                    f"{name}: the filter {part.filter!r} matches no weight, expected a part of a name such as "
                    f"{weights[len(weights) // 2]}; correct it"
                )


def check_whole(config: MergeConfiguration) -> None:
    """Refuse parameters of a slice or a module that hold for the whole model.

    Raises:
        UserError: With the parameter.
    """
    for name, value in partial_settings(config):
        if name in WHOLE:
            raise UserError(
                f"{name}: {value} is given for a part of the model, expected one value for the whole model; put it "
                "under the merge's own parameters"
            )


def _mask_fault(mask: str, name: str, value: Any) -> UserError | None:
    try:
        check_chosen_mask(mask, **{name: value})
    except UserError as error:
        return error
    return None


def _check_word(name: str, value: object, choices: Sequence[str]) -> None:
    word = Path(str(value)).name
    if word in choices and value != word:
        raise UserError(
            f"{name}: {value} is a path, which mergekit-multi puts for {word} where a merge has that name, expected "
            f"{word}; name the merge otherwise"
        )
    check_choice(name, value, choices)


def _check_value(method: str, parameter: ParameterSpec, value: Any) -> None:
    name = parameter.name
    if name == "mask":
        _check_word("mask", value, MASK_KINDS)
    if name == "role":
        _check_word("role", value, [role for role in ROLES if method != "safe_lora" or role != "safe"])
    try:
        number = parameter.validate(value)
    except ValidationError:
        raise UserError(f"{name}: {value!r}, expected {KINDS.get(name, 'a path')}; correct it") from None
    if name == "threshold" and method == "safety_subspace":
        check_range(name, number, 0.0, 1.0, low_open=True)
    elif name in RANGES:
        check_range(name, number, *RANGES[name])
