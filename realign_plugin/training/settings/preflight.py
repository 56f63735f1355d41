"""Checks of a run before anything slow starts; no host is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.method.fusion import check_trainable, is_linear
from realign_plugin.subspace.files import read_spec
from realign_plugin.subspace.options import OPTIONS as SUBSPACE_OPTIONS
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.subspace.task_vectors import task_weights
from realign_plugin.training.settings.distillation import DISTILL_OPTIONS, check_distillation
from realign_plugin.training.settings.inference import is_subspace

STAGE: Final = "mask_dpo"
DISTILL: Final = "safety_distill"
HOST_STAGES: Final = {STAGE: "dpo", DISTILL: "sft"}
"""Our stages; each takes the name of one of the host's while that checks arguments and chooses what to run."""
STAGES: Final = tuple(HOST_STAGES)
TYPE: Final = "safety_subspace"
LORA: Final = "lora"
REFERENCES: Final = ("init", "aligned", "base", "model")

STAGE_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # No noise and T = 1: the mask that is trained is the soft mask that is shipped, and at first the plain fusion.
    DISTILL: {"mask_noise": 0.0, "mask_temperature": 1.0},
}
"""Where a stage's defaults are not those of ``SubspaceSpec``, which are the paper's."""
OPTIONS: Final = (
    "stage",
    "finetuning_type",
    "aligned_adapter",
    "task_adapters",
    "task_models",
    "task_weight",
    "mask_reference",
    "mask_compile",
    "lora_target",
    *SUBSPACE_OPTIONS,
    *DISTILL_OPTIONS,
)


def split_paths(value: str | Sequence[str] | None) -> list[str]:
    """Paths from a YAML list, or from text with commas.

    Raises:
        UserError: If the value is neither.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise UserError(f"task_adapters: {value!r} is not a path, expected a path or a list of paths")
    return list(value)


def split_weights(value: Any) -> Any:
    """``task_weight`` from YAML (a number or a list) or from text with commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) and "," in value else value


def check_options(options: Mapping[str, Any]) -> SubspaceSpec:
    """Check our options among themselves, without opening a file.

    Args:
        options: Our options by name; missing ones take their defaults.

    Returns:
        The description of the subspace that they ask for.

    Raises:
        UserError: With the option, its value, what was expected and the fix.
    """
    stage, kind = options.get("stage"), options.get("finetuning_type")
    if stage == STAGE and kind != TYPE:
        raise UserError(
            f"finetuning_type: {kind!r} with stage: mask_dpo, expected 'safety_subspace'; set finetuning_type"
        )
    if stage == DISTILL:
        check_choice("finetuning_type", kind, (TYPE, LORA))
        check_distillation(options)
    check_choice("mask_reference", options.get("mask_reference") or "init", REFERENCES)
    adapters, models = split_paths(options.get("task_adapters")), split_paths(options.get("task_models"))
    values = dict(STAGE_DEFAULTS.get(str(stage), {}))
    values |= {name: options[name] for name in SUBSPACE_OPTIONS if options.get(name) is not None}
    if models:
        values = {"vector_space": "weight", "has_aligned": False, "mask_granularity": "row"} | values
    try:
        spec = SubspaceSpec(**values)
        if options.get("mask") is None and spec.mask_estimator == "straight_through":
            spec.mask = "binary"
        spec.check()
    except TypeError as error:
        raise UserError(f"mask options: {error}, expected numbers; check their spelling in the YAML file") from error
    if options.get("mask_compile") not in (None, True, False):
        raise UserError(f"mask_compile: {options['mask_compile']!r}, expected true or false; correct it")
    if options.get("mask_compile"):
        check_compiled(spec)
    if tasks := adapters or models:
        weights = split_weights(options.get("task_weight"))
        what = "adapters" if adapters else "models"
        spec.task_weights = task_weights(weights, len(tasks), spec.fusion_method, what)
        check_trainable(spec.task_weights, "correct it, or leave it out")
    return spec


def check_compiled(spec: SubspaceSpec) -> None:
    """Refuse ``mask_compile`` where training does not go through ``masked_linear``, which is what can be compiled.

    Args:
        spec: The subspace; one that is not built yet has no targets.

    Raises:
        UserError: With what it is that cannot be compiled.
    """
    element = spec.vector_space == "lora" or spec.mask_granularity == "element"
    if not element or not is_linear(spec.fusion_method):  # type: ignore[arg-type]
        raise UserError(
            f"mask_compile: true with fusion_method: {spec.fusion_method} and mask_granularity: "
            f"{spec.mask_granularity}, expected a linear fusion, and masks of elements where weights are whole; leave "
            "mask_compile out"
        )
    if spec.parameters and not spec.target_modules:
        raise UserError(
            f"mask_compile: true with adapters of target_parameters alone ({next(iter(spec.parameters))}), expected "
            "linear modules among their targets; leave mask_compile out"
        )


def is_ours(options: Mapping[str, Any]) -> bool:
    """Whether a run is one of our stages', or is to train masks.

    A stock stage that does not train evaluates a trained subspace, or predicts with it, as any adapter; LLaMA Board
    asks for that under the subspace's own type.

    Args:
        options: Our options by name, and the host's ``do_train`` and ``adapter_name_or_path``.
    """
    if options.get("stage") in STAGES:
        return True
    trains = options.get("do_train") or not options.get("adapter_name_or_path")
    return options.get("finetuning_type") == TYPE and bool(trains)


def check_training(options: Mapping[str, Any], resumed: Sequence[str] = ()) -> None:
    """Check that a training run has sources, and a stage and a type that belong together.

    Args:
        options: Our options by name.
        resumed: ``adapter_name_or_path``, if any: a safety subspace whose training goes on.

    Raises:
        UserError: With the option, its value, what was expected and the fix.
    """
    if options.get("finetuning_type") == TYPE and options.get("stage") not in STAGES:
        raise UserError(
            f"stage: {options.get('stage')!r} with finetuning_type: safety_subspace, expected one of "
            f"{', '.join(STAGES)}; set stage"
        )
    adapters, models = split_paths(options.get("task_adapters")), split_paths(options.get("task_models"))
    if options.get("finetuning_type") == LORA and (models or resumed):
        name = "task_models" if models else "adapter_name_or_path"
        fix = "" if models else "; evaluate in the training itself (do_eval: true), or the trained adapter by lm_eval"
        raise UserError(
            f"{name}: {(models or resumed)[0]!r} with finetuning_type: lora, expected none; give the adapters of the "
            f"fine-tuned models as task_adapters{fix}"
        )
    if adapters and models:
        raise UserError(
            "task_adapters and task_models are both set, expected one; use task_adapters for LoRA, task_models for "
            "full"
        )
    if models and options.get("aligned_adapter"):
        raise UserError(
            f"aligned_adapter: {options['aligned_adapter']!r} with task_models, expected none: model_name_or_path is "
            "the aligned model there; merge the aligned adapter into it first (llamafactory-cli export)"
        )
    if resumed:
        _check_resumed(options, resumed, adapters, models)
    elif not adapters and not models:
        raise UserError(
            "task_adapters is not set, expected the LoRA adapters of the fine-tuned models; set task_adapters, or "
            "task_models for full checkpoints"
        )


def check_stock_training(adapters: Sequence[str], stage: str, masked: Callable[[str], bool] = is_subspace) -> None:
    """Refuse a stock stage that would train a subspace's logits, by its own loss and at its own learning rate.

    Args:
        adapters: ``adapter_name_or_path``, the last of which the host trains further.
        stage: The host's.
        masked: What tells a subspace.

    Raises:
        UserError: With what to do instead.
    """
    for path in filter(masked, adapters[-1:]):
        raise UserError(
            f"adapter_name_or_path: {path} is a safety subspace, of which stage: {stage} would train the mask, "
            f"expected a LoRA adapter; set create_new_adapter: true, or `realign export {path} OUT` and give OUT"
        )


def _check_resumed(
    options: Mapping[str, Any], resumed: Sequence[str], adapters: Sequence[str], models: Sequence[str]
) -> None:
    """Refuse anything but one safety subspace, without sources, as a training that goes on."""
    given = {"task_adapters": adapters, "task_models": models, "aligned_adapter": options.get("aligned_adapter")}
    if (name := next((name for name, value in given.items() if value), None)) is not None:
        fix = (
            f"leave {name} out to go on from it, or adapter_name_or_path to train another"
            if is_subspace(resumed[0])
            else "give LoRA adapters as aligned_adapter and task_adapters, and no adapter_name_or_path"
        )
        raise UserError(f"{name} and adapter_name_or_path ({', '.join(resumed)}) are both set, expected one; {fix}")
    if len(resumed) > 1 or not is_subspace(resumed[0]):
        raise UserError(
            f"adapter_name_or_path: {', '.join(resumed)} is not a single safety subspace, expected the output of a "
            "mask_dpo "
            "run; give LoRA adapters as aligned_adapter and task_adapters"
        )
    if options.get("mask_compile"):
        check_compiled(read_spec(Path(resumed[0]))[0])
