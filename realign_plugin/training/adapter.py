"""Puts the safety subspace into the model that LLaMA-Factory loaded."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llamafactory.extras import logging
from peft import PeftModel

from realign_plugin.errors import UserError
from realign_plugin.subspace.fingerprints import record_base
from realign_plugin.subspace.spec import check_chosen_mask
from realign_plugin.training.settings.going_on import TRAINING_OPTIONS
from realign_plugin.training.settings.inference import CHOICE
from realign_plugin.training.settings.preflight import STAGES
from realign_plugin.tuner import SafetySubspaceModel
from realign_plugin.tuner.attach import attach_subspace, model_folder
from realign_plugin.tuner.linear import is_quantised
from realign_plugin.tuner.schedule import train_with

logger = logging.get_logger(__name__)


def init_safety_subspace(model: Any, model_args: Any, finetuning_args: Any, is_trainable: bool) -> Any:
    """Attach the subspace to train, or load a trained one.

    For training, and for evaluating with one of our stages, it stays an adapter. Otherwise (export, chat)
    adapters are merged, as the host does with LoRA, unless the base model is quantised.

    Args:
        model: The base model.
        model_args: The host's model arguments.
        finetuning_args: Ours.
        is_trainable: Whether the run trains.

    Returns:
        The PEFT model, or the merged base model.
    """
    subspace = getattr(finetuning_args, "subspace", None)
    if subspace is not None:
        finetuning_args.subspace = None  # the model holds it from here on
        if hasattr(model, "add_model_tags"):
            model.add_model_tags(["safety_subspace"])  # shown on the model card
        if not subspace.spec.base_sha256:  # a model of the hub: in the cache since it was loaded
            record_base(subspace.spec, model_folder(model_args.model_name_or_path, model_args.cache_dir))
        peft_model = attach_subspace(model, subspace, is_trainable=is_trainable)
        logger.info_rank0(f"Fine-tuning method: safety subspace ({subspace})")
        return peft_model
    chosen: list[Any] = [getattr(finetuning_args, name, None) for name in CHOICE]
    asked = any(value is not None for value in chosen)
    for path in model_args.adapter_name_or_path or []:
        peft_model = PeftModel.from_pretrained(
            model,
            path,
            is_trainable=is_trainable,
            subfolder=model_args.adapter_folder,
            cache_dir=model_args.cache_dir,
            revision=model_args.model_revision,
            token=model_args.hf_hub_token,
        )
        if isinstance(peft_model.base_model, SafetySubspaceModel):
            config = peft_model.peft_config["default"]
            if asked:
                check_chosen_mask(chosen[0] or config.mask, *chosen[1:])
                peft_model.base_model.set_mask(chosen[0] or config.mask, *chosen[1:])
                asked = False
            if is_trainable:
                how = {name: getattr(finetuning_args, name) for name in TRAINING_OPTIONS}
                train_with(peft_model.base_model, how)
        if is_trainable or finetuning_args.stage in STAGES or any(map(is_quantised, _linears(peft_model))):
            return peft_model
        model = peft_model.merge_and_unload()
        logger.info_rank0(f"Merged {path}.")
    if asked:
        name, value = next((n, v) for n, v in zip(CHOICE, chosen, strict=True) if v is not None)
        raise UserError(f"{name}: {value!r}, but no adapter is a safety subspace, expected one; leave {name} out")
    return model


def init_distilled_lora(model: Any, finetuning_args: Any) -> Any:
    """A LoRA adapter to distil, from the fine-tuned model's (or the fused ones), with its teachers frozen next to it.

    Args:
        model: The base model.
        finetuning_args: Ours, with the plain fusion of the task adapters.

    Returns:
        The PEFT model: ``default`` is trained, ``fine_tuned`` and ``aligned`` are not; without an aligned adapter the
        base model is that teacher.
    """
    subspace, finetuning_args.subspace = finetuning_args.subspace, None
    with TemporaryDirectory() as folder:
        start = str(subspace.to_lora(Path(folder, "start")))
        peft_model = PeftModel.from_pretrained(model, start, is_trainable=True)
        peft_model.load_adapter(start, "fine_tuned")
    if finetuning_args.aligned_adapter is not None:
        peft_model.load_adapter(finetuning_args.aligned_adapter, "aligned")
    peft_model.set_adapter("default")  # loading a frozen adapter freezes it
    logger.info_rank0(f"Fine-tuning method: LoRA, distilled from {len(subspace.spec.task_weights)} task(s)")
    return peft_model


def _linears(peft_model: Any) -> list[Any]:
    layers = [layer for layer in peft_model.base_model.modules() if hasattr(layer, "get_base_layer")]
    return [layer.get_base_layer() for layer in layers if not hasattr(layer, "parameter_name")]
