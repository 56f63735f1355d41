"""What runs of several processes can do, checked before they start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from realign_plugin.errors import UserError
from realign_plugin.text_files import read_json

HOST_OPTIONS: Final = ("deepspeed", "fsdp", "fsdp_config")
RESHARDS: Final = {"FULL_SHARD": "true", "1": "true", "SHARD_GRAD_OP": "false", "2": "false"}
"""Sharding strategies of FSDP1 that FSDP2 has, and its option that selects them."""


def check_processes(options: Mapping[str, Any]) -> None:
    """Refuse what would silently go wrong, or go wrong late, with DeepSpeed or FSDP.

    Args:
        options: Our options and the host's ``deepspeed``, ``fsdp`` and ``fsdp_config``.

    Raises:
        UserError: If ZeRO-3 is to train with a keep penalty; if FSDP is to checkpoint activations, or is version 1 and
            cannot be replaced by version 2.
    """
    weight = options.get("mask_keep_weight") or 0
    if zero_stage(options.get("deepspeed")) == 3 and isinstance(weight, (int, float)) and weight > 0:
        # The penalty is computed outside the layers, where ZeRO-3's parameters are empty: no gradient reaches them.
        raise UserError(
            f"mask_keep_weight: {weight:g} has no gradient under DeepSpeed ZeRO-3, expected 0; set it to 0, or use "
            "FSDP2 or ZeRO-2 (examples/train)"
        )
    masked = options.get("finetuning_type") != "lora"
    if masked and fsdp_version(options) is not None and _checkpoints_activations(options):
        # Accelerate's does not restore random numbers when a layer runs again.
        raise UserError(
            "fsdp_activation_checkpointing: true would draw other masks when a layer runs again, expected false; "
            "leave it out (gradient checkpointing is on in LLaMA-Factory unless disable_gradient_checkpointing is set)"
        )
    if fsdp_version(options) != 1:
        return
    if not _launched_with_fsdp():
        raise UserError(
            "fsdp_config: FSDP version 1 flattens frozen and trained tensors into one, which masks cannot be read "
            "back from, expected version 2; set fsdp_config: {version: 2}"
        )
    strategy = os.environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
    if strategy.upper() not in RESHARDS:
        raise UserError(
            f"fsdp_sharding_strategy: {strategy} is FSDP1's alone, which flattens frozen and trained tensors into "
            "one, expected FULL_SHARD or SHARD_GRAD_OP, which FSDP2 has too; set one of them in accelerate's file"
        )


def fsdp_version(options: Mapping[str, Any]) -> int | None:
    """The version of FSDP that ``accelerate launch`` (its environment) or the options ask for; None without FSDP.

    Args:
        options: The host's ``fsdp`` and ``fsdp_config`` (a path or the configuration itself, as text or read), if set.
    """
    if _launched_with_fsdp():
        return int(os.environ.get("FSDP_VERSION") or 1)
    if not options.get("fsdp"):
        return None
    config = _read(options.get("fsdp_config"))
    return int(config.get("version") or config.get("fsdp_version") or 1)


def _launched_with_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _checkpoints_activations(options: Mapping[str, Any]) -> bool:
    config = _read(options.get("fsdp_config"))
    found = config.get("activation_checkpointing", config.get("fsdp_activation_checkpointing"))
    if found is None and _launched_with_fsdp():
        found = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING")
    return str(found).lower() == "true"


def zero_stage(config: Any) -> int:
    """The ZeRO stage of a DeepSpeed configuration; 0 where there is none, or it cannot be read (the host says so).

    Args:
        config: Path of a JSON file, or its content, as text or read.
    """
    stage = (_read(config).get("zero_optimization") or {}).get("stage", 0)
    return stage if isinstance(stage, int) else 0


def _read(config: Any) -> Mapping[str, Any]:
    if isinstance(config, str) and config.startswith("{"):  # transformers takes JSON itself, too
        try:
            found = json.loads(config)
        except ValueError:  # the host says so
            return {}
        return found if isinstance(found, dict) else {}
    if isinstance(config, str):
        try:
            return read_json(Path(config), "deepspeed", "its configuration")
        except UserError:
            return {}
    return config if isinstance(config, Mapping) else {}


def launched_by() -> Literal["torchrun", "ray"] | None:
    """What the host starts a training's processes by; None where it trains in this one."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled, use_ray

    if any(map(is_env_enabled, ("FORCE_TORCHRUN", "USE_MCA", "USE_MEGATRON_BRIDGE"))):
        return "torchrun"
    if use_ray():
        return "ray"
    return "torchrun" if get_device_count() > 1 else None
