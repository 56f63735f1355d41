"""Settings of the host that our stages cannot take, or that they set; no host is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.training.settings import distillation
from realign_plugin.training.settings.preflight import DISTILL, LORA

TEACHER: Final = "each row has a teacher of its own"
LOSS: Final = "the loss is the divergence from the teachers"
ANSWERS: Final = "evaluation measures that divergence; ask the saved adapter by lm_eval"

DATA: Final = {
    "packing": TEACHER, "neat_packing": TEACHER, "streaming": TEACHER, "tokenized_path": TEACHER,
    "interleave_probs": "distill_skill_weight sets the balance of the two teachers",
    "train_on_prompt": "teachers are compared on answers alone",
}  # fmt: skip
LOSSES: Final = {
    "use_dft_loss": LOSS, "use_asft_loss": LOSS, "use_eaft_loss": LOSS, "compute_accuracy": ANSWERS,
}  # fmt: skip
GENERATION: Final = {"predict_with_generate": ANSWERS, "do_predict": ANSWERS}
MODEL: Final = {
    "use_unsloth": "it does not restore random numbers when a layer runs again, so masks would differ "
    "(use_unsloth_gc works)",
    "use_kt": "it does not restore random numbers when a layer runs again, so masks would differ",
    **dict.fromkeys(
        ("resize_vocab", "add_tokens", "add_special_tokens"),
        "an adapter does not hold the new embeddings; resize and save the base model first",
    ),
}

PREFERENCES: Final = [
    "pref_beta", "pref_ftx", "pref_loss", "pref_bco_weight", "dpo_label_smoothing", "simpo_gamma", "ld_alpha",
    "ref_model_adapters", "ref_model_quantization_bit",
]  # fmt: skip
TRAINERS: Final = ("use_mca", "use_megatron_bridge", "use_hyper_parallel")
"""Options of the host for trainers of its own stages, in this version or its next."""


def check_trainer(finetuning_args: Any, stage: str) -> None:
    """Refuse a trainer that would run the host's stage in place of ours.

    Args:
        finetuning_args: The host's, of this version or another.
        stage: Ours.

    Raises:
        UserError: With the option that chooses the trainer.
    """
    for name in TRAINERS:
        if getattr(finetuning_args, name, False):
            raise UserError(f"{name}: its trainers know no stage: {stage}, expected False; leave it out")


def check_data(data_args: Any, finetuning_args: Any) -> None:
    """Check which data sets have which teacher, and what would mix their rows, or rows of pairs.

    Only the last answer of a conversation is learnt from in self-distillation: earlier ones are no model's own.

    Args:
        data_args: The host's data arguments; changed in place.
        finetuning_args: Ours.

    Raises:
        UserError: If something in them cannot work.
    """
    stage = finetuning_args.real_names["stage"]
    if stage != DISTILL:
        _refuse(data_args, dict.fromkeys(("packing", "neat_packing"), "LLaMA-Factory packs no pairs"), stage)
        return
    _refuse(data_args, DATA, stage)
    if data_args.mix_strategy != "concat":
        raise UserError(
            f"mix_strategy: {data_args.mix_strategy!r} with stage: {stage}, expected 'concat', since "
            "distill_skill_weight sets the balance of the two teachers; leave it out"
        )
    data_args.mask_history = True
    options = finetuning_args.options()
    distillation.check_skill_datasets(
        options["skill_dataset"], data_args.dataset or [], data_args.eval_dataset or [],
        options["distill_skill_weight"],
    )  # fmt: skip


def check_settings(model_args: Any, training_args: Any, finetuning_args: Any) -> Iterator[str]:
    """Refuse settings that would be ignored, or that end in an adapter that nothing loads.

    Args:
        model_args: The host's model arguments.
        training_args: The host's training arguments.
        finetuning_args: Ours.

    Yields:
        Lines about settings that are not used.

    Raises:
        UserError: With the first setting that cannot be taken.
    """
    stage, kind = (finetuning_args.real_names[name] for name in ("stage", "finetuning_type"))
    _refuse(model_args, MODEL, stage)
    if stage == DISTILL:
        _refuse(finetuning_args, LOSSES, stage)
        _refuse(training_args, GENERATION, stage)
    for arguments, names, why in _unused(training_args, finetuning_args, stage, kind):
        named = [name for name in names if name in finetuning_args.given and getattr(arguments, name, None)]
        if named:
            yield f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} not used: {why}"


def _unused(training_args: Any, finetuning_args: Any, stage: str, kind: str) -> Iterator[tuple[Any, list[str], str]]:
    """Options of the host that mean nothing to a stage and a type, and why."""
    lora = ["lora_rank", "lora_alpha", "lora_dropout", "create_new_adapter"]
    if finetuning_args.task_models:
        yield finetuning_args, lora, "what is trained are masks of whole weights"
    else:
        own = "the fine-tuned adapter itself is trained further" if kind == LORA else "the adapters' own are masked"
        yield finetuning_args, [*lora, "lora_target"], own
    if stage == DISTILL:
        yield finetuning_args, PREFERENCES, LOSS
        yield training_args, ["label_smoothing_factor"], LOSS
        return
    if finetuning_args.ref_model is None:
        yield finetuning_args, ["ref_model_adapters", "ref_model_quantization_bit"], "there is no ref_model"
    yield training_args, ["label_smoothing_factor"], "DPO's is dpo_label_smoothing"
    yield training_args, ["do_predict"], "pairs are evaluated, not answered"


def _refuse(arguments: Any, names: dict[str, str], stage: str) -> None:
    for name, why in names.items():
        if value := getattr(arguments, name, None):
            raise UserError(f"{name}: {value!r} with stage: {stage}, expected none, since {why}; leave it out")
