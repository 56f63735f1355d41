"""The run of ``stage: mask_dpo``: the host's tokenizer, data, model loading and callbacks around our trainer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamafactory.data import PairwiseDataCollatorWithPadding, get_dataset, get_template_and_fix_tokenizer
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.extras.misc import calculate_tps
from llamafactory.extras.ploting import plot_loss
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.trainer_utils import create_modelcard_and_push, create_ref_model

from realign_plugin.training.resuming import EVALUATED, STATE, is_finished
from realign_plugin.training.trainer import MaskDPOTrainer


def run_mask_dpo(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, callbacks: list[Any] | None = None
) -> None:
    """Train and evaluate as the arguments ask.

    Args:
        model_args: The host's model arguments.
        data_args: The host's data arguments; the data set is a ranking one.
        training_args: The host's training arguments.
        finetuning_args: Ours.
        callbacks: The host's trainer callbacks.
    """
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    datasets = get_dataset(template, model_args, data_args, training_args, stage="rm", **tokenizer_module)
    model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    uses_model = finetuning_args.use_ref_model and finetuning_args.mask_reference == "model"
    trainer = MaskDPOTrainer(
        model=model,
        ref_model=create_ref_model(model_args, finetuning_args) if uses_model else None,
        args=training_args,
        finetuning_args=finetuning_args,
        data_collator=PairwiseDataCollatorWithPadding(
            template=template,
            model=model,
            pad_to_multiple_of=8,
            label_pad_token_id=IGNORE_INDEX if data_args.ignore_pad_token_for_loss else tokenizer.pad_token_id,
            **tokenizer_module,
        ),
        callbacks=callbacks,
        **datasets,
        **tokenizer_module,
    )
    complete(trainer, model_args, data_args, training_args, finetuning_args, datasets)


def complete(
    trainer: Any,
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    datasets: dict[str, Any],
    curves: Sequence[str] = ("rewards/accuracies",),
) -> None:
    """Train and evaluate as the arguments ask; a run that is finished is left alone.

    Args:
        trainer: One of ours.
        model_args: The host's model arguments.
        data_args: The host's data arguments.
        training_args: The host's training arguments.
        finetuning_args: Ours.
        datasets: ``train_dataset`` and ``eval_dataset``.
        curves: What ``plot_loss`` draws besides the loss.
    """
    finished = training_args.do_train and not _train(trainer, training_args, finetuning_args, datasets, curves)
    if training_args.do_eval and not (finished and (Path(training_args.output_dir) / EVALUATED).is_file()):
        metrics = trainer.evaluate(metric_key_prefix="eval")
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if not finished:
        create_modelcard_and_push(trainer, model_args, data_args, training_args, finetuning_args)


def _train(
    trainer: Any, training_args: Any, finetuning_args: Any, datasets: dict[str, Any], curves: Sequence[str]
) -> bool:
    """Train and save; whether there was anything to do."""
    folder = training_args.output_dir
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if trainer.nothing_left:
        steps = trainer.state.max_steps
        finished = is_finished(folder, steps)
        if trainer.is_world_process_zero():
            what = "is finished" if finished else "was stopped before its model was saved, which is done now"
            done = trainer.state.load_from_json(f"{folder}/{STATE}").global_step if finished else steps
            early = f"it was stopped early, after {done} of {steps} steps"
            how = f"all of its {steps} steps had been trained" if done == steps else early
            print(f"realign-plugin: {folder} {what}: {how}", file=sys.stderr)
        if finished:
            return False
    trainer.save_model()
    if not trainer.nothing_left:
        if finetuning_args.include_effective_tokens_per_second:
            speed = calculate_tps(
                datasets["train_dataset"], result.metrics, stage="rm" if isinstance(trainer, MaskDPOTrainer) else "sft"
            )
            result.metrics["effective_tokens_per_sec"] = speed
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    if finetuning_args.plot_loss and trainer.is_world_process_zero():
        evaluated = datasets.get("eval_dataset")
        names = [f"eval_{name}_loss" for name in evaluated] if isinstance(evaluated, dict) else ["eval_loss"]
        plot_loss(folder, keys=["loss", *curves, *(["mask/mean"] if trainer.is_subspace else []), *names])
    return True
