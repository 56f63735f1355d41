"""The run of ``stage: safety_distill``: the host's tokenizer, data, model loading and callbacks around our trainer."""

from __future__ import annotations

import copy
from typing import Any

from datasets import concatenate_datasets
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.model import load_model, load_tokenizer

from realign_plugin.training.distill_trainer import SafetyDistillTrainer
from realign_plugin.training.teachers import TEACHERS, Teacher
from realign_plugin.training.workflow import complete


def run_safety_distill(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, callbacks: list[Any] | None = None
) -> None:
    """Train and evaluate as the arguments ask.

    Args:
        model_args: The host's model arguments.
        data_args: The host's data arguments; the data sets are fine-tuning ones.
        training_args: The host's training arguments.
        finetuning_args: Ours; ``skill_dataset`` says which data sets have the fine-tuned model as their teacher.
        callbacks: The host's trainer callbacks.
    """
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    parts = [rows_of(teacher, data_args, finetuning_args) for teacher in TEACHERS]
    datasets = joined(
        [
            get_dataset(template, model_args, part, training_args, stage="sft", **tokenizer_module)
            if part.dataset or part.eval_dataset
            else {}
            for part in parts
        ]
    )
    model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    trainer = SafetyDistillTrainer(
        model=model,
        args=training_args,
        finetuning_args=finetuning_args,
        data_collator=SFTDataCollatorWith4DAttentionMask(
            template=template,
            model=model,
            pad_to_multiple_of=8,
            label_pad_token_id=IGNORE_INDEX,
            **tokenizer_module,
        ),
        callbacks=callbacks,
        **datasets,
        **tokenizer_module,
    )
    curves = [f"kl/{teacher}" for teacher in TEACHERS]
    complete(trainer, model_args, data_args, training_args, finetuning_args, datasets, curves)


def rows_of(teacher: Teacher, data_args: Any, finetuning_args: Any) -> Any:
    """The host's data arguments with the data sets of one teacher.

    Args:
        teacher: The teacher.
        data_args: The host's data arguments.
        finetuning_args: Ours.
    """
    skill = set(finetuning_args.options()["skill_dataset"])
    part = copy.copy(data_args)
    for name in ("dataset", "eval_dataset"):
        wanted = [one for one in getattr(data_args, name) or [] if (one in skill) == (teacher == "fine_tuned")]
        setattr(part, name, wanted or None)
    return part


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One data set of each kind, whose rows say which teacher they have.

    Args:
        parts: What the host's ``get_dataset`` gave for each teacher, in the order of ``TEACHERS``.

    Returns:
        ``train_dataset`` and ``eval_dataset``; the latter by name where each is evaluated by itself.
    """
    result: dict[str, Any] = {}
    for kind in ("train_dataset", "eval_dataset"):
        marked: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            found = part.get(kind)
            named = found if isinstance(found, dict) else {"": found}
            marked.append(
                {
                    name: one.add_column("teacher", [number] * len(one))
                    for name, one in named.items()
                    if one is not None
                }
            )
        together = {name: one for part in marked for name, one in part.items() if name}
        rest = [part[""] for part in marked if "" in part]
        if together:
            result[kind] = together
        elif rest:
            result[kind] = concatenate_datasets(rest)
    return result
