"""Slices and modules of a merge: every part comes from the same models, and every layer stays in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergekit.architecture import ModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import InputModelDefinition, InputSliceDefinition, MergeConfiguration, OutputSliceDefinition
from transformers import PretrainedConfig

from realign_plugin.errors import UserError


@dataclass(frozen=True)
class Group:
    """What is merged together: the models of a slice, of a module, or of the whole.

    Attributes:
        name: Where it is in the configuration, such as ``slices[1]``.
        sources: Its models.
        slice: The slice that it is; None for a module, or the whole.
    """

    name: str
    sources: Sequence[InputModelDefinition | InputSliceDefinition]
    slice: OutputSliceDefinition | None = None

    def besides(self, base: ModelReference) -> list[str]:
        """The models besides the base, each with its role."""
        others = [source for source in self.sources if source.model != base]
        roles = [(source.parameters or {}).get("role") for source in others]
        return [f"{o.model} ({role})" if role else str(o.model) for o, role in zip(others, roles, strict=True)]


def groups(config: MergeConfiguration) -> Iterator[Group]:
    """Everything that is merged together, in the order of the configuration."""
    if config.models:
        yield Group("models", config.models)
    yield from _slices("slices", config.slices)
    for name, module in (config.modules or {}).items():
        if module.models:
            yield Group(f"modules.{name}.models", module.models)
        yield from _slices(f"modules.{name}.slices", module.slices)


def check_groups(config: MergeConfiguration, base: ModelReference) -> None:
    """Refuse parts of a model that are merged from other models, or from another base, than the first.

    Raises:
        UserError: With the part and its models.
    """
    first, *others = groups(config)
    expected = first.besides(base)
    for group in (first, *others):
        models = [source.model for source in group.sources]
        twice = [model for model in models if models.count(model) > 1]
        if twice:
            raise UserError(f"{group.name}: {twice[0]} is listed twice, expected every model once; leave one out")
        if group.slice is not None and group.slice.base_model not in (None, base):
            raise UserError(
                f"{group.name}: its base_model is {group.slice.base_model}, expected that of the merge, {base}; "
                "leave it out"
            )
        if group.slice is not None and base not in models:
            raise UserError(
                f"{group.name}: lacks the base model {base}, expected it in every slice; add it to the sources"
            )
        found = group.besides(base)
        if found != expected:
            raise UserError(
                f"{group.name}: besides the base it has {', '.join(found) or 'no model'}, {first.name} has "
                f"{', '.join(expected) or 'none'}, expected the same models and roles in the same order; list them so"
            )


def check_layers(config: MergeConfiguration) -> None:
    """Refuse slices that move a layer: masks and adapters are matched to layers by number.

    Raises:
        UserError: With the model and its range of layers.
    """
    for slices in _all_slices(config).values():
        first = 0
        for part in slices:
            last = part.sources[0].layer_range[1]
            for source in part.sources:
                start, end = source.layer_range
                if start != first:
                    raise UserError(
                        f"slices: layers {start} to {end} of {source.model} would become layer {first} and on, "
                        "expected every layer in its own place, since masks and adapters are matched by its number; "
                        "merge first, then rearrange with passthrough"
                    )
                if end != last or end <= start:
                    raise UserError(
                        f"slices: the layer_range of {source.model} is [{start}, {end}], expected the same layers of "
                        "every model, at least one; correct it"
                    )
            first = last


def check_parts(config: MergeConfiguration, architecture: ModelArchitecture, settings: PretrainedConfig) -> None:
    """Refuse parts of a model that its architecture does not have, and modules that would be left out.

    Args:
        config: The configuration.
        architecture: The models' architecture.
        settings: The base model's configuration.

    Raises:
        UserError: With the module or the layers.
    """
    known = list(architecture.modules)
    if config.slices and len(known) > 1:
        raise UserError(
            f"slices: the model has the modules {', '.join(known)}, expected slices of each; put them under modules"
        )
    if config.modules and set(config.modules) != set(known):
        raise UserError(
            f"modules: {', '.join(config.modules)}, expected {', '.join(known)}, since mergekit leaves out what is "
            "not named; name each"
        )
    for name, slices in _all_slices(config).items():
        count = architecture.modules[name or known[0]].architecture.num_layers(settings)
        for source in slices[-1].sources if slices else []:
            if source.layer_range[1] > count:
                raise UserError(
                    f"slices: the layer_range of {source.model} is {list(source.layer_range)}, expected layers up to "
                    f"{count}, of which the model has no more; correct it"
                )


def _slices(name: str, slices: Sequence[OutputSliceDefinition] | None) -> Iterator[Group]:
    for number, part in enumerate(slices or []):
        yield Group(f"{name}[{number}]", part.sources, part)


def _all_slices(config: MergeConfiguration) -> dict[str, Sequence[OutputSliceDefinition]]:
    """The slices of each module; those of the whole under an empty name."""
    found = {name: module.slices for name, module in (config.modules or {}).items()} | {"": config.slices}
    return {name: slices for name, slices in found.items() if slices}
