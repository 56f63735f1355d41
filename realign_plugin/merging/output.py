"""Checks of what a merge writes besides the weights: their dtype, the tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from mergekit._data import chat_templates
from mergekit.architecture import WeightInfo
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from mergekit.tokenizer.config import ModelTokenEmbedding
from transformers import AutoTokenizer

from realign_plugin.errors import UserError, check_choice
from realign_plugin.merging.sources import module_of

DTYPES: Final = ("bfloat16", "float16", "float32", "float64")
TOKENIZERS: Final = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
"""Patterns of files of which a tokenizer has at least one; transformers makes an empty one where there is none."""


def check_output(config: MergeConfiguration) -> None:
    """Refuse a dtype or chat template that mergekit would stumble on after the merge.

    Raises:
        UserError: With the value and what was expected.
    """
    for name, dtype in (("dtype", config.dtype), ("out_dtype", config.out_dtype)):
        if dtype:
            check_choice(name, dtype.removeprefix("torch."), DTYPES)
    template = config.chat_template
    if template and (len(template) < 20 or "{" not in template):
        known = sorted(
            file.name.removesuffix(".jinja") for file in files(chat_templates).iterdir() if ".jinja" in file.name
        )
        check_choice("chat_template", template, ["auto", *known])


def tokenizer_setting(config: MergeConfiguration) -> str | ModelReference | None:
    """Where the merged vocabulary comes from; None where the base model's stays."""
    return config.tokenizer.source if config.tokenizer else config.tokenizer_source


def check_vocabulary(
    config: MergeConfiguration, weights: Iterable[WeightInfo], modules: Mapping[str, Iterable[str]]
) -> None:
    """Refuse adapters of the vocabulary where a tokenizer setting moves its rows: their own rows would not move.

    Args:
        config: The configuration.
        weights: All weights of the architecture.
        modules: For each adapter, by the name of its parameter, the modules that it changes.

    Raises:
        UserError: With the module.
    """
    if not tokenizer_setting(config):
        return
    for parameter, changed in modules.items():
        known = tuple(changed)
        moved = [module_of(weight.name, known) for weight in weights if weight.vocabulary_axis is not None]
        lost = [module for module in moved if module is not None]
        if lost:
            raise UserError(
                f"tokenizer: is set, which moves the rows of {lost[0]}, expected none, since {parameter} changes that "
                "module by its rows; leave it out"
            )


def check_tokenizer(config: MergeConfiguration, options: MergeOptions) -> None:
    """Refuse a tokenizer setting whose tokenizers, or tokens, are nowhere.

    Args:
        config: The configuration.
        options: mergekit's options.

    Raises:
        UserError: With the model, or the token.
    """
    models, source = config.referenced_models(), tokenizer_setting(config)
    if source is None:
        return
    needed = {model: f"models ({model})" for model in models} | {config.base_model: "base_model"}
    if isinstance(source, ModelReference):
        needed[source] = "tokenizer"
    for model, what in needed.items():
        folder = Path(model.model.path)
        empty = folder.is_dir() and not any(found for pattern in TOKENIZERS for found in folder.glob(pattern))
        try:
            if empty:
                raise FileNotFoundError
            AutoTokenizer.from_pretrained(
                model.model.path, revision=model.model.revision, trust_remote_code=options.trust_remote_code
            )
        except Exception as error:  # the hub's client and transformers have many errors; the path has to be corrected
            raise UserError(
                f"{what}: no tokenizer can be loaded from {model} ({type(error).__name__}), expected a folder or a "
                "model of the hub that has one; correct it"
            ) from error
    for token, given in ((config.tokenizer and config.tokenizer.tokens) or {}).items():
        model = given.source.model if isinstance(given.source, ModelTokenEmbedding) else given.source
        if isinstance(model, ModelReference) and model not in models:
            raise UserError(
                f"tokenizer: the token {token} comes from {model}, expected one of the models that are merged: "
                f"{', '.join(sorted(map(str, models)))}; correct it"
            )
