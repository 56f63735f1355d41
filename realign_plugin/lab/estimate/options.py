"""LLaMA-Factory's options that determine the cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realign_plugin.lab.estimate.shapes import ModelShapes
from realign_plugin.training.settings.processes import fsdp_version, zero_stage

Options = Mapping[str, Any]


def bits(options: Options, model: ModelShapes, assumed: list[str]) -> float | None:
    """Bits of one quantised weight with its constants (bitsandbytes: blocks of 64, constants quantised again)."""
    if getattr(model.config, "quantization_config", None):
        config: Any = model.config.quantization_config
        config = config if isinstance(config, dict) else config.to_dict()
        bits = config.get("bits") or (4 if config.get("load_in_4bit") else 8)
        assumed.append(f"the base model is stored in {bits} bits and stays so")
        return float(bits) + 0.5
    asked = options.get("quantization_bit")
    if not asked:
        return None
    if int(asked) != 4:
        return float(asked)
    double = options.get("double_quantization", True)
    return 4 + 8 / 64 + 32 / (64 * 256) if double else 4 + 32 / 64


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


def ways(options: Options) -> str:
    """How the configuration spreads the training: ``fsdp``, ``zero2``, ``zero3``, or empty."""
    stage = zero_stage(options.get("deepspeed"))
    if stage in (2, 3):
        return f"zero{stage}"
    return "fsdp" if fsdp_version(options) is not None else ""
