"""Checks of weights by the headers of their files: they are complete, of the same shape, and fit on the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from mergekit.architecture import ConfiguredModelArchitecture, WeightInfo, get_architecture_info
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from realign_plugin.errors import UserError
from realign_plugin.merging.output import check_vocabulary, tokenizer_setting
from realign_plugin.merging.settings import check_filters
from realign_plugin.merging.slices import check_parts
from realign_plugin.merging.sources import module_of
from realign_plugin.subspace.checkpoints import Checkpoint


def check_weights(
    config: MergeConfiguration,
    options: MergeOptions,
    models: Mapping[ModelReference, Checkpoint],
    modules: Mapping[str, Iterable[str]],
) -> None:
    """Refuse models without a weight that mergekit will ask for, and adapters that it would leave out.

    Args:
        config: The configuration.
        options: mergekit's options.
        models: All models, the base first.
        modules: For each adapter, by the name of its parameter, the modules that it changes.

    Raises:
        UserError: With the weight or the module.
    """
    try:
        architecture = get_architecture_info(config, options)
    except RuntimeError as error:
        raise UserError(
            f"models: {error} (their config.json name different architectures), expected models of one architecture"
        ) from error
    for model, checkpoint in models.items():
        settings = model.config(trust_remote_code=options.trust_remote_code)
        weights = ConfiguredModelArchitecture(info=architecture, config=settings).all_weights()
        _check_whole(checkpoint, settings.model_type, weights)
        if checkpoint is next(iter(models.values())):
            names = [weight.name for weight in weights]
            check_parts(config, architecture, settings)
            check_filters(config, names)
            check_vocabulary(config, weights, modules)
            _check_reached(checkpoint, names, modules)


def _check_whole(checkpoint: Checkpoint, model_type: str, weights: Iterable[WeightInfo]) -> None:
    """Refuse a model without a weight that mergekit will ask for."""
    names = set(checkpoint.names)
    for weight in weights:
        if weight.optional or names.intersection((weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))):
            continue
        if not can_convert_checkpoint_keys(model_type, names, weight.name):
            raise UserError(
                f"{checkpoint.what}: {checkpoint.path} lacks {weight.name}, expected a whole {model_type} model; copy "
                "the folder again"
            )


def _check_reached(base: Checkpoint, weights: Iterable[str], modules: Mapping[str, Iterable[str]]) -> None:
    """Refuse adapters of modules that mergekit writes no weight for."""
    for parameter, changed in modules.items():
        known = tuple(changed)
        reached = {module_of(weight, known) for weight in weights}
        lost = [module for module in known if module not in reached]
        if lost:
            raise UserError(
                f"{parameter}: mergekit writes no weight for its module {lost[0]}, so that it would be left out of "
                f"{base.path}, expected modules of this architecture; merge it with `llamafactory-cli export` or PEFT"
            )


def check_same_shapes(config: MergeConfiguration, model: Checkpoint, base: Checkpoint) -> None:
    """Refuse weights of another shape, unless mergekit's tokenizer settings bring the vocabularies together.

    Raises:
        UserError: With the weight and both shapes.
    """
    if tokenizer_setting(config):
        return
    for name in base.names:
        if model.find(name) is not None and model.shape(name) != base.shape(name):
            raise UserError(
                f"{model.what}: {name} has shape {model.shape(name)}, {base.shape(name)} in the base {base.path}, "
                "expected the same; where only the vocabulary was resized, add `tokenizer: {source: base}`"
            )


def check_disk(config: MergeConfiguration, models: Sequence[Checkpoint], out: Path) -> None:
    """Refuse a merge whose output does not fit on the disk; mergekit writes the largest of the models' dtypes.

    Args:
        config: The configuration.
        models: The base, then all others.
        out: Where the model is to go.

    Raises:
        UserError: With what is free and what is needed.
    """
    written = dtype_from_name(config.out_dtype or config.dtype)
    base, needed = models[0], 0
    for name in base.names:
        holding = [model for model in models if model.find(name) is not None]
        size = torch.finfo(written).bits // 8 if written else max(model.element_size(name) for model in holding)
        needed += math.prod(base.shape(name)) * size
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{out}: {free / 2**30:.1f} GiB are free, the merged model needs {needed / 2**30:.1f} GiB, expected room "
            "for it; free some, or write elsewhere"
        )
