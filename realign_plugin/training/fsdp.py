"""FSDP as LLaMA-Factory's users configure it, made fit for frozen and trained tensors side by side."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import torch
from torch import nn

from realign_plugin.errors import UserError
from realign_plugin.training.settings.processes import RESHARDS, fsdp_version


def prepare_fsdp(model_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Choose FSDP2 where version 1 was asked for, and the precision; nothing without FSDP.

    With ``bf16: true`` accelerate would hold the base model in fp32 (and destroy a 4-bit one), and round logits and
    their gradients to bf16. Here each tensor keeps its dtype and computations are cast, as in a single process: see
    ``compute_in_bf16``. ``fp16: true`` is left to accelerate, whose gradient scaler depends on it.

    Args:
        model_args: The host's model arguments.
        training_args: The host's training arguments, checked; changed in place, as is the environment.
        finetuning_args: The host's fine-tuning arguments.

    Raises:
        UserError: If a quantised base model is to be trained on in fp16, or layers are to be run again within one
            another's backward pass.
    """
    options = {name: getattr(training_args, name, None) for name in ("fsdp", "fsdp_config")}
    version = fsdp_version(options)
    if version is None:
        return
    if model_args.use_unsloth_gc:
        raise UserError(
            "use_unsloth_gc: true with FSDP, whose version 2 needs checkpointing that is not reentrant, expected "
            "false; leave it out (gradient checkpointing is on by default)"
        )
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"  # of the optimiser; adapters are saved whole by us
    if version == 1:
        strategy = os.environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
        os.environ["FSDP_VERSION"] = "2"
        os.environ["FSDP_RESHARD_AFTER_FORWARD"] = RESHARDS[strategy.upper()]
        os.environ.pop("FSDP_BACKWARD_PREFETCH", None)  # FSDP2 always does
        if int(os.environ.get("RANK", "0")) == 0:
            print(
                "realign-plugin: FSDP version 2 is used instead of version 1, which would flatten frozen and trained "
                "tensors into one; fsdp_version: 2 in accelerate's file silences this",
                file=sys.stderr,
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if training_args.fp16 or (precision not in ("no", "bf16") and not training_args.bf16):
        if model_args.quantization_bit:
            raise UserError(
                f"quantization_bit: {model_args.quantization_bit} with fp16 and FSDP, which would convert the packed "
                "weights to fp32, expected bf16; set bf16: true"
            )
        return
    if precision == "bf16" and not finetuning_args.pure_bf16:
        training_args.bf16 = True
    os.environ["ACCELERATE_MIXED_PRECISION"] = training_args.mixed_precision = "no"


def compute_in_bf16(model: nn.Module, device: str) -> None:
    """Run a model's forward passes under autocast, as accelerate does in a single process.

    Args:
        model: The model; its ``forward`` is replaced.
        device: Type of the device that computes; offloaded parameters are elsewhere.
    """
    forward = model.forward

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = run
