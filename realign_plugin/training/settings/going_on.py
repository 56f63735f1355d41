"""A training that goes on from a trained subspace: how its masks are drawn; no host is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.method.fusion import check_trainable
from realign_plugin.subspace.files import read_spec, tensor_shapes
from realign_plugin.subspace.spec import SubspaceSpec, check_logits, replace_spec
from realign_plugin.subspace.task_vectors import task_weights
from realign_plugin.subspace.training_record import BUILDING_OPTIONS
from realign_plugin.training.settings.preflight import STAGE_DEFAULTS, split_weights

TRAINING_OPTIONS: Final = (
    "mask_temperature", "mask_estimator", "mask_rescale", "mask_noise", "mask_noise_end", "mask_keep_weight",
)  # fmt: skip
"""How masks are drawn in training, and held."""


def trained_further(path: str | Path, given: Mapping[str, Any]) -> SubspaceSpec:
    """The description of a subspace once it is trained further: what is given, else the stage's own, else its own.

    Args:
        path: The subspace's folder.
        given: The options that the run was given, by name; None stands for one that was not.

    Raises:
        UserError: If an option would build another subspace, or its masks could not be trained.
    """
    spec = read_spec(Path(path))[0]
    given = {name: value for name, value in given.items() if value is not None}
    values = {name: given[name] for name in BUILDING_OPTIONS if name in given}
    built = {name: getattr(spec, name) for name in BUILDING_OPTIONS}
    if "task_weight" in given:
        weights, count = split_weights(given["task_weight"]), len(spec.task_weights)
        values["task_weight"] = task_weights(weights, count, spec.fusion_method, "adapters")
        built["task_weight"] = spec.task_weights
    for name, value in values.items():
        if value != built[name]:
            raise UserError(
                f"{name}: {value!r} with adapter_name_or_path, expected none, since {path} was built with its own; "
                "leave it out, or build another from task_adapters"
            )
    check_trainable(spec.task_weights, f"{path} was built with it, build another from task_adapters")
    chosen = {**STAGE_DEFAULTS.get(given["stage"], {}), **given}
    if "mask_noise" in chosen:  # the subspace's end belongs to the subspace's start
        chosen.setdefault("mask_noise_end", None)
    further = replace_spec(spec, **{name: chosen[name] for name in TRAINING_OPTIONS if name in chosen})
    further.check()
    for module, shapes in tensor_shapes(path).items():
        for factor, shape in shapes.items():
            check_logits(further, f"{module}.{factor}", shape)
    return further


def go_on_from(path: str | Path, given: Mapping[str, Any], finetuning_args: Any) -> None:
    """Take the options of a training that goes on from a subspace; see :func:`trained_further`.

    Args:
        path: The subspace's folder.
        given: The options that the run was given, by name.
        finetuning_args: Ours; changed in place.

    Raises:
        UserError: If an option would build another subspace, or its masks could not be trained.
    """
    spec = trained_further(path, given)
    for name in TRAINING_OPTIONS:
        setattr(finetuning_args, name, getattr(spec, name))
    if "mask_estimator" in given and finetuning_args.mask is None:
        finetuning_args.mask = "binary" if finetuning_args.mask_estimator == "straight_through" else "soft"
