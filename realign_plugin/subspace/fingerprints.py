"""How a model is recognised, whatever version or dtype it was saved in: sha256 of its shape and of a few weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.subspace.checkpoints import Checkpoint
from realign_plugin.subspace.spec import SubspaceSpec

SAMPLED_TENSORS: Final = 8
SAMPLED_VALUES: Final = 256

_ARCHITECTURE: Final = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers")
"""Keys of ``config.json`` that every version writes alike."""
_CONFIG: Final = (
    *_ARCHITECTURE,
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "num_local_experts",
    "num_experts",
)
"""Keys that subspaces were told apart by once: some are left out on the hub, and filled in when a model is saved."""

_OF_A_TASK: Final = {"sha256": "weights", "sha256_fp16": "weights_fp16"}
"""Keys of a source's record, and the parts of the model's fingerprint that they hold."""


def fingerprint(path: str | Path | None, modules: Sequence[str]) -> dict[str, str]:
    """A model's fingerprint: sha256 of its architecture and of a sample of its weights.

    Weights are rounded to bf16 first, so that a checkpoint and its copy in another float dtype are the same. A copy in
    fp16 was rounded before: ``weights_fp16`` is of the weights rounded to fp16, then to bf16. A quantised checkpoint
    has no sample.

    Args:
        path: The model's folder; None and folders without readable files give an empty result.
        modules: Target modules, from which the sample is taken.

    Returns:
        ``{"architecture": hex, "config": hex, "weights": hex, "weights_fp16": hex}``, without what could not be read;
        compare it with ``differing``.
    """
    if path is None or not Path(path).is_dir():
        return {}
    found: dict[str, str] = {}
    try:
        checkpoint = Checkpoint(path, "model_name_or_path")
        for part, keys in (("architecture", _ARCHITECTURE), ("config", _CONFIG)):
            found[part] = _config_sha256(checkpoint.config, keys)
        rows = {module: _sample(checkpoint, f"{module}.weight") for module in spread(modules, SAMPLED_TENSORS)}
    except UserError:
        return found
    if rows:
        found["weights"] = _weights_sha256(rows)
        found["weights_fp16"] = _weights_sha256({module: row.to(torch.float16) for module, row in rows.items()})
    return found


def record_base(spec: SubspaceSpec, path: str | Path | None) -> None:
    """Write a base model's fingerprint into a subspace's description, with the modules that the sample is of.

    Args:
        spec: Changed in place.
        path: The base model's folder; see :func:`fingerprint`.
    """
    spec.sampled_modules = spread(spec.target_modules or (), SAMPLED_TENSORS)
    spec.base_sha256 = fingerprint(path, spec.sampled_modules)


def task_sha256(path: Path, modules: Sequence[str]) -> dict[str, str]:
    """What the record of a source keeps of a fine-tuned model's fingerprint; ``task_fingerprint`` reads it."""
    found = fingerprint(path, modules)
    return {key: found.get(part, "") for key, part in _OF_A_TASK.items()}


def task_fingerprint(source: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint in the record of a source."""
    return {part: str(source[key]) for key, part in _OF_A_TASK.items() if source.get(key)}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """The part in which two fingerprints differ; None where they are of one model, or have nothing to compare.

    Fingerprints made before there was ``architecture`` hold ``config`` instead, which differs between copies too: it
    is asked only where there are no weights.
    """
    shared = one.keys() & other.keys()
    if "architecture" in shared and one["architecture"] != other["architecture"]:
        return "architecture"
    if "weights" in shared:
        return None if _roundings(one) & _roundings(other) else "weights"
    if "architecture" not in shared and "config" in shared and one["config"] != other["config"]:
        return "config"
    return None


def check_same_base(
    what: str, path: str | Path | None, right: str, recorded: Mapping[str, str], modules: Sequence[str], fix: str
) -> None:
    """Refuse a base other than the one that something was trained on.

    Args:
        what: What the user calls the base, e.g. ``model_name_or_path``; the error message starts with it.
        path: The base model's folder; anything else is not compared.
        right: What the base should be, e.g. ``the model that realigned was trained on``.
        recorded: That model's fingerprint.
        modules: The modules that the recorded sample is of.
        fix: What to do; the error message ends with it.

    Raises:
        UserError: With the part in which the two differ.
    """
    found = fingerprint(path, modules)
    if (part := differing(recorded, found)) is not None:
        raise UserError(
            f"{what}: {path} is not {right} (sha256 of its {part}: "
            f"{found[part][:12]}…, recorded {recorded[part][:12]}…), expected that one; {fix}"
        )


def spread(items: Sequence[str], count: int) -> list[str]:
    """Up to ``count`` evenly spaced items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _sample(checkpoint: Checkpoint, name: str) -> Tensor:
    """The first values of a weight.

    Raises:
        UserError: If there is none, or it is quantised.
    """
    checkpoint.dtype(name)
    width = math.prod(checkpoint.shape(name)[1:])
    return checkpoint.rows(name, -(-SAMPLED_VALUES // max(1, width))).flatten()[:SAMPLED_VALUES]


def _weights_sha256(rows: Mapping[str, Tensor]) -> str:
    weights = hashlib.sha256()
    for module, row in rows.items():
        weights.update(module.encode())
        weights.update(row.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return weights.hexdigest()


def _config_sha256(config: dict[str, Any], keys: Iterable[str]) -> str:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    kept = {key: config.get(key, (text or {}).get(key)) for key in keys}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _roundings(found: Mapping[str, str]) -> set[str]:
    return {found[part] for part in ("weights", "weights_fp16") if part in found}
