"""What determines the cost of one training, read from its LLaMA-Factory options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.estimate.adapters import (
    AdapterShapes,
    adapter_shapes,
    factor_shapes,
    matching,
    planned_adapter,
)
from realign_plugin.lab.estimate.options import Options, bits, evaluation, saves, states, ways
from realign_plugin.lab.estimate.shapes import Factors, ModelShapes, model_shapes, numbers
from realign_plugin.method.masks import logits_shape
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.training.settings.preflight import (
    DISTILL,
    STAGE,
    STAGES,
    check_options,
    check_training,
    split_paths,
)
from realign_plugin.training.settings.processes import check_processes, fsdp_version

Kind = Literal["mask", "lora", "full"]
Planned = Mapping[str, Options]
"""Options of the planned trainings, by output folder."""

PADDED_TO: Final = 8
"""LLaMA-Factory pads preference pairs to a multiple of it."""
TEACHER: Final = "teacher"
"""Reference of a LoRA adapter under self-distillation: frozen adapters next to it."""
COUNTED: Final = (*STAGES, "dpo", "sft")
"""Stages whose cost is known."""
KINDS: Final[dict[str, Kind]] = {"safety_subspace": "mask", "lora": "lora", "full": "full"}


@dataclass(frozen=True)
class Training:
    """What decides what a training costs.

    Attributes:
        name: What it is called.
        model: Its base model.
        stage: ``mask_dpo``, ``safety_distill``, ``dpo`` or ``sft``.
        kind: What is trained: mask logits, LoRA factors, or all weights.
        spec: Description of the subspace, where masks are trained.
        shapes: ``{module: {factor: (rows, columns)}}`` of what is masked, or of the LoRA factors.
        vector_dtype: Dtype of aligned factors and task vectors.
        precision: ``fp32``; ``bf16`` or ``fp16``: autocast; ``pure_bf16``: no autocast.
        quantised: Bits of a weight of the quantised base model, its constants included; None: not quantised.
        batch: Pairs (or rows, where there are no pairs) of one forward pass on one device.
        evaluation: The same while evaluating; None: there is no evaluation.
        length: Tokens of the longest row, padding included.
        accumulation: Forward passes of one step.
        checkpointing: Whether activations are computed again in the backward pass.
        reentrant: Which kind of checkpointing.
        attention: ``eager`` where every head's weights are kept whole; None: the default, which keeps them in parts.
        reference: The DPO reference: ``init``, ``aligned``, ``base``, ``model`` (a second model), or None; a teacher
            of self-distillation: ``init``, or ``teacher`` (a frozen adapter).
        ftx: Weight of the chosen answer's likelihood.
        keep_weight: Weight of the keep penalty.
        states: Bytes that the optimiser keeps for each byte of what is trained.
        saves: Checkpoints that are left at the end; None: it depends on how many rows there are.
        ways: How it may be spread: ``ddp``, ``fsdp``, ``zero2`` or ``zero3``, as the configuration asks; empty: alone.
        folder: Where it writes to.
        assumed: What the configuration leaves open and was assumed.
    """

    name: str
    model: ModelShapes
    stage: str
    kind: Kind
    spec: SubspaceSpec
    shapes: Factors
    vector_dtype: torch.dtype
    precision: str
    quantised: float | None
    batch: int
    evaluation: int | None
    length: int
    accumulation: int
    checkpointing: bool
    reentrant: bool
    attention: str | None
    reference: str | None
    ftx: float
    keep_weight: float
    states: float
    saves: int | None
    ways: str
    folder: str
    assumed: tuple[str, ...] = field(default=())

    @property
    def answers(self) -> int:
        """Answers to one prompt: chosen and rejected ones go through a forward pass together."""
        return 1 if self.stage in ("sft", DISTILL) else 2

    @property
    def rows(self) -> int:
        """Rows of one forward pass."""
        return self.batch * self.answers

    @property
    def logits(self) -> int:
        """Mask logits that are trained."""
        if self.kind != "mask":
            return 0
        granularity: Any = self.spec.mask_granularity
        return numbers(logits_shape(s, granularity) for pair in self.shapes.values() for s in pair.values())

    @property
    def elements(self) -> int:
        """Numbers in one copy of what is masked, or in the LoRA factors."""
        return numbers(shape for pair in self.shapes.values() for shape in pair.values())


def is_counted(options: Options) -> bool:
    """Whether the cost of such a training is known: its stage and its type."""
    stage, method = options.get("stage") or "sft", options.get("finetuning_type") or "lora"
    return stage in COUNTED and method in KINDS


def read_training(name: str, options: Options, planned: Planned | None = None) -> Training:
    """Read a training's cost-deciding settings from its options.

    Args:
        name: What it is called.
        options: LLaMA-Factory's options and ours, by name.
        planned: Trainings whose adapters are not there yet.

    Raises:
        UserError: If the model or an adapter is at fault, or our options mean nothing.
    """
    model, assumed = _model(options, planned or {}), list[str]()
    stage, method = str(options.get("stage") or "sft"), str(options.get("finetuning_type") or "lora")
    check_choice("stage", stage, COUNTED)
    check_choice("finetuning_type", method, KINDS)
    kind = KINDS[method]
    spec, shapes, vector_dtype = _trained(_Sources(options, model, planned or {}, assumed), stage, kind)
    precision = next((p for p in ("pure_bf16", "bf16", "fp16") if options.get(p)), "fp32")
    length = int(options.get("cutoff_len") or 2048)
    return Training(
        name, model, stage, kind, spec, shapes, vector_dtype, precision,
        quantised=bits(options, model, assumed),
        batch=int(options.get("per_device_train_batch_size") or 8),
        evaluation=evaluation(options),
        length=-(-length // PADDED_TO) * PADDED_TO,
        accumulation=int(options.get("gradient_accumulation_steps") or 1),
        checkpointing=not options.get("disable_gradient_checkpointing") and model.checkpoints,
        # FSDP2 and the keep penalty change it, in LLaMA-Factory and in our hook.
        reentrant=bool(options.get("use_reentrant_gc", True)) and fsdp_version(options) is None
        and not float(options.get("mask_keep_weight") or 0),
        attention="eager" if options.get("flash_attn") == "disabled" else None,
        reference=_reference(options, stage, kind),
        ftx=float(options.get("pref_ftx") or 0),
        keep_weight=float(options.get("mask_keep_weight") or 0),
        states=states(str(options.get("optim") or "adamw_torch"), assumed),
        saves=saves(options),
        ways=ways(options, assumed),
        folder=str(options.get("output_dir") or ""),
        assumed=tuple(dict.fromkeys(assumed)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Sources:
    """What the shapes of a training are read from; ``assumed`` collects what is assumed."""

    options: Options
    model: ModelShapes
    planned: Planned
    assumed: list[str]


def _trained(sources: _Sources, stage: str, kind: Kind) -> tuple[SubspaceSpec, Factors, torch.dtype]:
    """What is trained: the subspace's description, the shapes of what is masked or of the LoRA factors, the dtype."""
    options = sources.options
    start = split_paths(options.get("adapter_name_or_path"))
    if kind == "mask" or stage in STAGES:
        spec = check_options(options)
        check_processes(options)
        if start:
            raise UserError(
                f"adapter_name_or_path: {start[0]} goes on with a trained subspace, expected the configuration that "
                "it was begun with; it costs the same"
            )
        check_training(options, start)
        shapes, dtype = _masked(sources, spec)
        if stage == DISTILL:
            sources.assumed.append("answers fill their rows; where prompts take a part of them, a step takes less")
        return spec, shapes, torch.float32 if kind == "lora" else dtype  # PEFT widens what it loads to train
    if kind == "full":
        return SubspaceSpec(), {}, torch.float32
    if start:
        found = _adapter(start[-1], sources, "adapter_name_or_path")
    else:
        found = planned_adapter(options, sources.model, "lora_target")
    dtype = torch.bfloat16 if options.get("pure_bf16") else torch.float32
    return SubspaceSpec(), factor_shapes(sources.model, found.ranks), dtype


def _reference(options: Options, stage: str, kind: Kind) -> str | None:
    """What the model is compared with while it trains; see ``Training``."""
    if str(options.get("pref_loss") or "sigmoid") in ("orpo", "simpo"):
        return None
    if stage == "dpo":
        return "model" if options.get("ref_model") or kind == "full" else "base"
    if stage in STAGES and kind == "lora":
        return TEACHER
    if stage == STAGE:
        return str(options.get("mask_reference") or "init")
    return "init" if kind == "mask" or stage == DISTILL else None


def _model(options: Options, planned: Planned) -> ModelShapes:
    """The base model; one that a training is yet to make has the shapes of what that training starts from."""
    name = options.get("model_name_or_path")
    made = planned.get(str(name))
    if made is None or made.get("model_name_or_path") == name:
        return model_shapes(name)
    start = _model(made, planned)
    # LLaMA-Factory trains whole models in fp32 unless told otherwise, and saves them so.
    return replace(start, dtype=start.dtype if made.get("pure_bf16") else torch.float32)


def _masked(sources: _Sources, spec: SubspaceSpec) -> tuple[Factors, torch.dtype]:
    """Shapes of what is masked, and the dtype of its vectors; completes the spec."""
    options, model = sources.options, sources.model
    models, adapters = split_paths(options.get("task_models")), split_paths(options.get("task_adapters"))
    spec.task_weights = [1.0] * len(models or adapters)
    if models:
        names = matching(model, options.get("lora_target") or "all", "lora_target")
        for number, path in enumerate(models):
            if path not in sources.planned and (Path(path) / "config.json").is_file():
                _same(model, model_shapes(path, f"task_models[{number}]"), f"task_models[{number}]")
            elif path not in sources.planned:
                sources.assumed.append(f"{path} is not there: the shapes and the dtype of the base model")
        return {name: {"W": model.linears[name]} for name in names}, model.dtype
    aligned = options.get("aligned_adapter")
    spec.has_aligned = bool(aligned)
    listed = [(path, f"task_adapters[{n}]") for n, path in enumerate(adapters)]
    listed += [(str(aligned), "aligned_adapter")] if aligned else []
    found = [_adapter(path, sources, what) for path, what in listed]
    for adapter, (path, what) in zip(found[1:], listed[1:], strict=True):
        if adapter.ranks != found[0].ranks:
            raise UserError(
                f"{what}: {path} has other target modules or ranks than {listed[0][0]}, expected the same; start the "
                "fine-tuning from the aligned adapter"
            )
    dtypes = {adapter.dtype for adapter in found}
    return factor_shapes(model, found[0].ranks), dtypes.pop() if len(dtypes) == 1 else torch.float32


def _same(model: ModelShapes, other: ModelShapes, what: str) -> None:
    if model.tensors != other.tensors:
        raise UserError(
            f"{what}: {other.name} has other weights than {model.name}, expected a model fine-tuned from it; check "
            "the path"
        )


def _adapter(path: str, sources: _Sources, what: str) -> AdapterShapes:
    """An adapter that a training will make, that is there, or that ``lora_rank`` and ``lora_target`` describe.

    One that a training will make may be there of an earlier run, or in part.
    """
    options, model = sources.options, sources.model
    made = sources.planned.get(path)
    if made is not None:
        start = split_paths(made.get("adapter_name_or_path"))
        if start and start[-1] != path:
            return _adapter(start[-1], replace(sources, options=made), what)
        return planned_adapter(made, model, "lora_target")
    if Path(path).exists():
        found = adapter_shapes(path, model, what)
        if not found.known:
            sources.assumed.append(f"{path} holds no weights yet: fp32, as LLaMA-Factory saves adapters")
        return found
    if options.get("lora_rank") and options.get("lora_target"):
        sources.assumed.append(f"{path} is not there: lora_rank and lora_target of the configuration")
        return planned_adapter(options, model, "lora_target")
    raise UserError(
        f"{what}: {path} does not exist, expected the folder of a LoRA adapter; check the path, or say what it will "
        "be: lora_rank=64 lora_target=q_proj,v_proj"
    )
