"""LLaMA-Factory's options that determine the cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from realign_plugin.lab.estimate.shapes import ModelShapes
from realign_plugin.training.settings.processes import fsdp_version, zero_stage

Options = Mapping[str, Any]
DEQUANTISED: Final = ("mxfp4", "fp8")
"""Formats that LLaMA-Factory loads as whole weights."""


def bits(options: Options, model: ModelShapes, assumed: list[str]) -> float | None:
    """Bits of one quantised weight with its constants (bitsandbytes: blocks of 64, constants quantised again)."""
    if getattr(model.config, "quantization_config", None):
        config: Any = model.config.quantization_config
        config = config if isinstance(config, dict) else config.to_dict()
        if config.get("quant_method") in DEQUANTISED:
            assumed.append(f"LLaMA-Factory dequantises the base model ({config['quant_method']}) when it loads it")
            return None
        bits = _stored_bits(config)
        assumed.append(f"the base model is stored in {bits} bits and stays so")
        return float(bits) + 0.5
    asked = options.get("quantization_bit")
    if not asked:
        return None
    if int(asked) != 4:
        return float(asked)
    double = options.get("double_quantization", True)
    return 4 + 8 / 64 + 32 / (64 * 256) if double else 4 + 32 / 64


def _stored_bits(config: Mapping[str, Any]) -> int:
    """Bits of a stored weight, as each library writes them into ``quantization_config``; 8 where none are found."""
    groups = config.get("config_groups") or {}  # compressed-tensors
    known = [(group.get("weights") or {}).get("num_bits") for group in groups.values() if isinstance(group, Mapping)]
    known.append(config.get("bits"))
    hqq = (config.get("quant_config") or {}).get("weight_quant_params") or {}
    known.append(hqq.get("nbits"))
    found = [int(bits) for bits in known if bits]
    if found:
        return max(found)
    if config.get("quant_method") == "bitsandbytes":
        return 4 if config.get("load_in_4bit") else 8
    return 4 if re.search(r"(int|fp|float)4(?!\d)", str(config).lower()) else 8  # torchao, quanto


def evaluation(options: Options) -> int | None:
    """Pairs that are evaluated at a time; None where nothing is evaluated."""
    strategy = options.get("eval_strategy") or options.get("evaluation_strategy") or "no"
    asked = options.get("do_eval") or strategy not in ("no", False)
    data = options.get("val_size") or options.get("eval_dataset")
    if not asked or not data:
        return None
    batch = int(options.get("per_device_eval_batch_size") or 8)
    held = float(options.get("val_size") or 0)  # rows where it is 1 or more, else a share of them
    return min(batch, int(held)) if held >= 1 else batch


def states(optimiser: str, assumed: list[str]) -> float:
    """Bytes of state for each byte that is trained."""
    if optimiser.startswith("sgd"):
        return 0.0
    if "8bit" in optimiser:
        return 0.5
    if not optimiser.startswith("adamw"):
        assumed.append(f"optim: {optimiser} is taken to keep as much as AdamW")
    return 2.0


def saves(options: Options) -> int | None:
    """Checkpoints that are left at the end; None where that depends on how many rows the data have."""
    strategy = options.get("save_strategy", "steps")
    if strategy in ("no", False):
        return 0
    limit = options.get("save_total_limit")
    count: float | None = None
    if strategy == "epoch":
        count = float(options.get("num_train_epochs") or 3)
    elif int(options.get("max_steps") or -1) > 0:
        steps, every = int(options["max_steps"]), float(options.get("save_steps") or 500)
        count = steps / (every if every >= 1 else max(1.0, steps * every))  # below 1 it is a share of the steps
    if count is None:
        return int(limit) if limit else None
    kept = max(1, int(-(-count // 1)))
    return min(kept, int(limit)) if limit else kept


def ways(options: Options, assumed: list[str]) -> str:
    """How the configuration spreads the training: ``fsdp``, ``zero2``, ``zero3``, or empty."""
    asked = options.get("deepspeed")
    if isinstance(asked, str) and not asked.lstrip().startswith("{") and not Path(asked).is_file():
        assumed.append(f"deepspeed: {asked} is not there, so that what it shards is not known: no sharding")
    stage = zero_stage(options.get("deepspeed"))
    if stage in (2, 3):
        return f"zero{stage}"
    return "fsdp" if fsdp_version(options) is not None else ""
