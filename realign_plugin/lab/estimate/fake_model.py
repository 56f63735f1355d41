"""The model that a training trains, made of tensors that have shapes but no numbers; and what its weights take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from realign_plugin.lab.estimate.shapes import meta_model
from realign_plugin.lab.estimate.training import TEACHER, Training
from realign_plugin.subspace.files import PREFIX

TEACHERS: Final = ("aligned", "fine_tuned")
"""Names of the frozen adapters of self-distillation."""


def fake_model(training: Training) -> Any:
    """The model with its masks or adapters, ready to train; call it where torch's fake mode is active."""
    shapes = training.model
    with torch.device("meta"):
        model = _attached(
            meta_model(shapes.config, shapes.name, dtype=shapes.dtype, attention=training.attention), training
        )
    model = _faked(model)
    model.train()
    if training.checkpointing:
        options = {"use_reentrant": training.reentrant, "preserve_rng_state": False}
        base = model.get_base_model() if training.kind != "full" else model
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        base.get_input_embeddings().register_forward_hook(_as_leaf)
    return model


def kept_bytes(model: Any, training: Training) -> tuple[dict[str, int], int, int]:
    """Bytes that are held throughout, by kind; those of the largest layer; and those outside the layers."""
    kept: dict[str, int] = {}
    stacks: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        size = _bytes(name, parameter, training)
        kind = _part(name, training.kind)
        kept[kind] = kept.get(kind, 0) + size
        parts = name.split(".")
        number = next((n for n, part in enumerate(parts) if part.isdigit()), None)
        place = "" if number is None else ".".join(parts[: number + 1])
        stacks[place] = stacks.get(place, 0) + size
    kept["base weights"] += sum(b.numel() * b.element_size() for b in model.buffers())
    root = stacks.pop("", 0)
    return kept, max(stacks.values(), default=0), root


def _part(name: str, kind: str) -> str:
    if kind == "lora" and any(f".{teacher}." in name for teacher in TEACHERS):
        return "teachers' LoRA factors"
    parts = {
        f"{PREFIX}logits_": "mask logits",
        f"{PREFIX}aligned_": "aligned factors",
        f"{PREFIX}deltas_": "task vectors",
        "lora_": "LoRA factors",
    }
    return next((part for key, part in parts.items() if key in name), "base weights")


def _bytes(name: str, parameter: Tensor, training: Training) -> int:
    """Bytes of a parameter; quantised, where it is a linear module's inside the layers."""
    size = parameter.numel() * parameter.element_size()
    if training.quantised is None or _part(name, training.kind) != "base weights":
        return size
    plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
    module = plain.removesuffix(".weight")
    quantised = plain.endswith(".weight") and module in training.model.inner
    return round(parameter.numel() * training.quantised / 8) if quantised else size


def _attached(model: nn.Module, training: Training) -> Any:
    """The model with what is trained put in, on the meta device."""
    if training.kind == "full":
        dtype = training.model.dtype if training.precision == "pure_bf16" else torch.float32
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        return model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    from peft import LoraConfig, get_peft_model

    modules = list(training.shapes)
    if training.kind == "lora":
        ranks = {module: pair["A"][0] for module, pair in training.shapes.items()}
        exact = {module.replace(".", r"\."): rank for module, rank in ranks.items()}
        config: Any = LoraConfig(r=8, target_modules=modules, rank_pattern=exact, lora_dropout=0.0)
        adapted = get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype=training.vector_dtype)
        if training.reference == TEACHER:
            _add_teachers(adapted, config, training)
        return adapted
    from realign_plugin.tuner.config import SafetySubspaceConfig

    spec = replace(
        training.spec, target_modules=modules, vector_dtype=str(training.vector_dtype).removeprefix("torch.")
    )
    if spec.vector_space == "lora":
        spec.rank_pattern = {module: pair["A"][0] for module, pair in training.shapes.items()}
    adapted = get_peft_model(model, SafetySubspaceConfig.from_spec(spec))
    for layer in adapted.base_model.layers():
        layer.kept.trusted = True  # tensors without numbers have no contents to compare
    return adapted


def _add_teachers(adapted: Any, config: Any, training: Training) -> None:
    """Frozen adapters next to the one that is trained, as self-distillation has them."""
    for name in TEACHERS if training.spec.has_aligned else ("fine_tuned",):
        adapted.add_adapter(name, config)
    for name, parameter in adapted.named_parameters():
        if any(f".{teacher}." in name for teacher in TEACHERS):
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(dtype=training.vector_dtype)


def _as_leaf(module: nn.Module, args: Any, output: Tensor) -> None:
    """A checkpointed layer needs an input with a gradient, which LLaMA-Factory ensures."""
    if output.is_leaf:
        output.requires_grad_(True)


def _faked(model: Any) -> Any:
    """A model of fake CPU tensors in place of one on the meta device; tied weights stay tied."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in seen:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                seen[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = seen[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return model
