"""Shapes of a model and of LoRA adapters, from ``config.json`` and ``adapter_config.json`` alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from realign_plugin.errors import UserError
from realign_plugin.subspace.lora_names import natural_key

KNOWN: Final = "Llama, Mistral, Qwen2, Qwen3, Gemma, Phi3"
Factors = Mapping[str, Mapping[str, tuple[int, int]]]
"""``{module: {"A": (r, in), "B": (out, r)}}``, or ``{module: {"W": (out, in)}}``."""


@dataclass(frozen=True)
class ModelShapes:
    """What a model is made of.

    Attributes:
        name: Folder or hub id.
        config: Its ``transformers`` configuration.
        architecture: Name of the class.
        dtype: Dtype that its weights are loaded in.
        parameters: How many numbers its weights hold; tied ones count once.
        linears: ``(out, in)`` of every ``torch.nn.Linear``, by full name, in natural order.
        outputs: Names of the output head.
        vocabulary: Size of the output.
        checkpoints: Whether it supports gradient checkpointing.
        tensors: Shape of each stored tensor by name, tied ones once.
    """

    name: str
    config: Any
    architecture: str
    dtype: torch.dtype
    parameters: int
    linears: dict[str, tuple[int, int]]
    outputs: frozenset[str]
    vocabulary: int
    checkpoints: bool
    tensors: dict[str, tuple[int, ...]] = field(repr=False)

    @property
    def inner(self) -> dict[str, tuple[int, int]]:
        """The linear modules without the output head: what ``all`` stands for."""
        return {name: shape for name, shape in self.linears.items() if name not in self.outputs}


def model_shapes(name: str | None, what: str = "model_name_or_path") -> ModelShapes:
    """Shapes of a model, from its configuration.

    Args:
        name: Folder with ``config.json``, or a hub id whose configuration is in the cache.
        what: What the user calls it.

    Raises:
        UserError: If there is no configuration, or its architecture is unknown or holds no linear modules.
    """
    if not name:
        raise UserError(f"{what}: is missing, expected the model's folder or hub id; add it")
    return _model_shapes(str(name), what)


@lru_cache
def _model_shapes(name: str, what: str) -> ModelShapes:
    config = _read_config(name, what)
    model = meta_model(config, name, what)
    outputs = frozenset(key for key, part in model.named_modules() if part is model.get_output_embeddings())
    linears = {
        key: (part.out_features, part.in_features)
        for key, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }
    if not set(linears) - outputs:
        weighted = (part for part in model.modules() if getattr(part, "weight", None) is not None)
        kinds = sorted({type(part).__name__ for part in weighted if not isinstance(part, nn.Linear)})
        raise UserError(
            f"{what}: {type(model).__name__} ({name}) holds no torch.nn.Linear but {', '.join(kinds)[:80]}, expected "
            f"an architecture such as {KNOWN}; masks work on linear modules only"
        )
    return ModelShapes(
        name,
        config,
        type(model).__name__,
        model.dtype,
        sum(p.numel() for p in model.parameters()),
        {key: linears[key] for key in sorted(linears, key=natural_key)},
        outputs,
        model.get_output_embeddings().weight.shape[0] if outputs else config.vocab_size,
        bool(getattr(model, "supports_gradient_checkpointing", False)),
        {key: tuple(p.shape) for key, p in model.named_parameters()},
    )


def _read_config(name: str, what: str) -> Any:
    from transformers import AutoConfig

    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise UserError(f"{what}: {folder} holds {found}, expected config.json; give the model's folder")
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        if folder.is_dir():
            raise UserError(
                f"{what}: {folder}/config.json names an architecture that transformers does not know "
                f"({_short(error)}), "
                f"expected one such as {KNOWN}"
            ) from error
        raise _not_there(name, what) from error
    except OSError as error:
        if folder.is_dir():
            raise UserError(f"{what}: {folder}/config.json cannot be read ({_short(error)}), expected JSON") from error
        raise _not_there(name, what) from error


def _not_there(name: str, what: str) -> UserError:
    return UserError(
        f"{what}: {name!r} is not a folder and not in the hub's cache, expected a model's config.json; give the "
        f"folder, or fetch it with `hf download {name} config.json`"
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def meta_model(
    config: Any,
    name: str,
    what: str = "model_name_or_path",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> Any:
    """The model that a configuration describes, on the meta device.

    Args:
        config: The configuration.
        name: Where it comes from, for messages.
        what: What the user calls it.
        dtype: Dtype of the weights; None takes what LLaMA-Factory loads: the configuration's, or fp32.
        attention: transformers' ``attn_implementation``; None takes the default.

    Raises:
        UserError: If it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            kind = dtype or getattr(config, "dtype", None) or torch.float32
            if attention:  # transformers notes it in the configuration, which is shared
                config = copy.deepcopy(config)
                config._attn_implementation = attention
            return AutoModelForCausalLM.from_config(config, dtype=kind, trust_remote_code=False)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"{what}: {name} ({config.model_type}) is not a causal language model that transformers supports "
            f"({_short(error)}), expected one such as {KNOWN}"
        ) from error


def numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(math.prod(shape) for shape in shapes)
