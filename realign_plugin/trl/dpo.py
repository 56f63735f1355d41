"""What TRL's stock ``DPOTrainer`` needs in order to train the masks of a safety subspace."""

from __future__ import annotations

import os
from typing import Any, Final, Literal, TypedDict, get_args

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainerCallback

from realign_plugin.errors import UserError, check_choice
from realign_plugin.method.fusion import check_trainable
from realign_plugin.method.statistics import mask_statistics
from realign_plugin.subspace.fingerprints import check_same_base, record_base
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.subspace.training_record import TrainingRecord
from realign_plugin.tuner import attach_subspace
from realign_plugin.tuner.attach import model_folder
from realign_plugin.tuner.finite import check_gradients, check_trained
from realign_plugin.tuner.learning_rate import WarnOfStandstill
from realign_plugin.tuner.recording import RecordTraining, RequireOptimizer
from realign_plugin.tuner.schedule import NoiseSchedule

ReferenceKind = Literal["init", "aligned", "base"]
REFUSED: Final = {
    "precompute_ref_log_probs": "TRL's cache does not see which mask the reference has; leave it out",
    "sync_ref_model": "the reference is a fixed setting of the mask; leave it out",
    "generate_during_eval": "the reference is the policy's own network, which does not answer by itself; leave it out",
    "use_liger_loss": "it takes the reference model apart, and here that is the policy; leave it out",
    "deepspeed": "sharded training is supported in LLaMA-Factory (docs/train.md); leave it out",
    "fsdp": "sharded training is supported in LLaMA-Factory (docs/train.md); leave it out",
}
"""Settings of ``DPOConfig`` that would go wrong, some of them silently."""


class DPOParts(TypedDict):
    """Arguments of ``DPOTrainer``."""

    model: PeftModel
    ref_model: Reference
    args: Any
    callbacks: list[TrainerCallback]


def mask_dpo(model: nn.Module, subspace: SafetySubspace, args: Any, reference: ReferenceKind = "init") -> DPOParts:
    """The arguments with which TRL's ``DPOTrainer`` trains a subspace (SOMF, arXiv 2405.09055, equation 6).

    Example:
        >>> subspace = SafetySubspace.from_adapters("aligned", ["fine-tuned"])
        >>> args = DPOConfig("realigned", learning_rate=0.1)
        >>> trainer = DPOTrainer(**mask_dpo(model, subspace, args), train_dataset=pairs, processing_class=tokenizer)

    Args:
        model: The base model; the subspace's layers are put into it.
        subspace: What to train.
        args: The trainer's ``DPOConfig``. Its default ``learning_rate`` is for weights; logits need about 0.1.
        reference: The DPO reference: ``init`` (the plain fusion), ``aligned`` (the aligned model) or ``base`` (the
            base model). It is computed in the same network.

    Returns:
        ``model``, ``ref_model``, ``args`` and ``callbacks``; add your own callbacks to the list.

    Raises:
        UserError: If the subspace does not fit the model, or a setting would go wrong.
    """
    check_choice("reference", reference, get_args(ReferenceKind))
    for name, fix in REFUSED.items():
        if getattr(args, name, None):
            raise UserError(f"{name}: {getattr(args, name)!r} with mask_dpo, expected none: {fix}")
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        if os.environ.get(name, "").lower() == "true":
            raise UserError(f"{name}: true with mask_dpo, expected none: {REFUSED['fsdp']}")
    spec = subspace.spec
    if spec.mask_keep_weight > 0:
        raise UserError(
            f"mask_keep_weight: {spec.mask_keep_weight:g} is not part of TRL's loss, expected 0; leave it out, or "
            "train with LLaMA-Factory's stage: mask_dpo"
        )
    check_trainable(spec.task_weights, "build the subspace with another")
    folder = model_folder(getattr(model, "name_or_path", ""))
    if not spec.base_sha256:
        record_base(spec, folder)
    modules = spec.sampled_modules or list(subspace.logits)
    right = "the model that the subspace was trained on"
    check_same_base("model", folder, right, spec.base_sha256, modules, "give it")
    record = TrainingRecord.of("mask_dpo", "safety_subspace", spec)
    policy = attach_subspace(model, subspace)
    return DPOParts(
        model=policy,
        ref_model=Reference(policy, reference),
        args=args,
        callbacks=[
            RecordTraining(record),
            RequireOptimizer(),
            WarnOfStandstill(),
            NoiseSchedule(spec.mask_noise, spec.mask_noise_end),
            MaskLog(),
        ],
    )


class Reference(nn.Module):
    """The reference model: the policy's own network under a fixed mask, without dropout or gradients.

    It has no parameters of its own. Without it, TRL would take the bare base model: by turning the adapter off, or,
    since 1.0, with a second adapter that stays empty, since TRL copies parameters by LoRA's names.
    """

    def __init__(self, policy: PeftModel, kind: ReferenceKind = "init") -> None:
        """Refer to the policy; see :func:`mask_dpo` for the kinds."""
        super().__init__()
        self.policies = (policy,)  # a tuple, so that it is not a submodule
        self.config = policy.config
        self.kind: ReferenceKind = kind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the policy returns as the reference.

        This is not ``forward``, which TRL 1.x replaces by one with a fused output head; the policy has that head.
        """
        (policy,) = self.policies
        context = policy.disable_adapter() if self.kind == "base" else policy.base_model.reference(self.kind)
        training = policy.training
        policy.eval()
        try:
            with torch.no_grad(), context:
                return policy(*args, **kwargs)
        finally:
            policy.train(training)


class MaskLog(TrainerCallback):  # type: ignore[misc]
    """Keeps logits in fp32, logs the state of the mask, and stops a run that no longer has numbers."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Undo TRL's rounding of logits to bf16 on a quantised base model; at their start it has lost nothing."""
        for layer in model.base_model.layers():
            for name in layer.adapter_layer_names:
                for logits in getattr(layer, name).values():
                    logits.data = logits.data.float()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look before a checkpoint is saved; transformers' own callback, which decides that, comes first.

        Raises:
            UserError: If a logit is not a number.
        """
        if control.should_save:
            self.on_train_end(args, state, control, model)

    on_epoch_end = on_step_end

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look before the adapter is saved.

        Raises:
            UserError: If a logit is not a number.
        """
        check_trained(((name, p) for name, p in model.named_parameters() if p.requires_grad), state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], model: Any = None, **kwargs: Any
    ) -> None:
        """Add the mask's statistics to what is logged.

        Raises:
            UserError: If the gradient norm is NaN: the trainer would go on with an adapter that holds NaN.
        """
        if not args.fp16:
            check_gradients(logs, state.global_step)
        if "loss" in logs or "eval_loss" in logs:
            prefix = "" if "loss" in logs else "eval_"
            found = {f"{prefix}mask/{name}": value for name, value in mask_statistics(model.base_model).items()}
            logs.update(found)
            state.log_history[-1].update(found)
