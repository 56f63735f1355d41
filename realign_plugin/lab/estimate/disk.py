"""Sizes of what a training leaves on the disk, and of what is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from realign_plugin.lab.estimate.shapes import Factors
from realign_plugin.lab.estimate.training import Training
from realign_plugin.method.masks import logits_shape
from realign_plugin.subspace.files import PREFIX
from realign_plugin.subspace.lora_names import MODEL_PREFIX

Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype by name."""

CODES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
PER_STATE: Final = 660
"""Bytes that torch.save spends on the two moments and the step of one parameter, besides their numbers."""
SMALL: Final = 28 * 1024
"""Trainer state, random states, arguments, model card, logs: all together."""


def safetensors_bytes(tensors: Tensors) -> int:
    """Size of a safetensors file, header included."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, dtype) in sorted(tensors.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        end = start + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + start


def subspace_tensors(training: Training) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a safety subspace's file holds: logits fp32, aligned factors and task vectors in their dtype."""
    spec, dtype = training.spec, training.vector_dtype
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for module, pair in training.shapes.items():
        stem = f"{MODEL_PREFIX}{module}.{PREFIX}"
        for factor, shape in pair.items():
            granularity = spec.mask_granularity
            found[f"{stem}logits_{factor}"] = (logits_shape(shape, granularity), torch.float32)  # type: ignore[arg-type]
            found[f"{stem}deltas_{factor}"] = ((spec.kept_deltas, *shape), dtype)
            if spec.has_aligned:
                found[f"{stem}aligned_{factor}"] = (shape, dtype)
    return found


def lora_tensors(shapes: Factors, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a LoRA adapter of these factors holds."""
    return {
        f"{MODEL_PREFIX}{module}.lora_{factor}.weight": (shape, dtype)
        for module, pair in shapes.items()
        for factor, shape in pair.items()
    }


def model_bytes(training: Training, dtype: torch.dtype | None = None) -> int:
    """Size of a full checkpoint's weights."""
    kind = dtype or training.model.dtype
    return safetensors_bytes({name: (shape, kind) for name, shape in training.model.tensors.items()})


def adapter_bytes(training: Training) -> int:
    """Size of the weights that a training saves: a subspace, an adapter, or a whole model."""
    match training.kind:
        case "mask":
            return safetensors_bytes(subspace_tensors(training))
        case "lora":
            return safetensors_bytes(lora_tensors(training.shapes, training.vector_dtype))
        case "full":
            pure = training.precision == "pure_bf16"
            return model_bytes(training, training.model.dtype if pure else torch.float32)


def export_bytes(training: Training, dtype: torch.dtype = torch.float32) -> int | None:
    """Size of the plain LoRA adapter that ``realign export`` writes; None in weight space, where there is none."""
    if training.kind == "full" or training.spec.vector_space == "weight":
        return None
    return safetensors_bytes(lora_tensors(training.shapes, dtype))


def optimiser_bytes(training: Training) -> int:
    """Size of a checkpoint's ``optimizer.pt``: the optimiser's states of all that is trained."""
    if training.kind == "mask":
        trained, itemsize, count = training.logits, 4, sum(len(pair) for pair in training.shapes.values())
    elif training.kind == "lora":
        trained, itemsize = training.elements, training.vector_dtype.itemsize
        count = sum(len(pair) for pair in training.shapes.values())
    else:
        trained, count = training.model.parameters, len(training.model.tensors)
        itemsize = training.model.dtype.itemsize if training.precision == "pure_bf16" else 4
    return round(training.states * trained * itemsize) + PER_STATE * count + 2048


def tokenizer_bytes(training: Training) -> int:
    """Size of the tokenizer, which is saved with every checkpoint; 0 where the model is not a local folder."""
    files = (Path(training.model.name) / name for name in TOKENIZER)
    return sum(file.stat().st_size for file in files if file.is_file())


def config_bytes(shapes: Factors) -> int:
    """Size of ``adapter_config.json``, which names every module, about."""
    return 3072 + sum(len(module) + 10 for module in shapes)


def final_bytes(training: Training) -> int:
    """Size of a training's folder without its checkpoints."""
    return adapter_bytes(training) + config_bytes(training.shapes) + tokenizer_bytes(training) + SMALL


def checkpoint_bytes(training: Training) -> int:
    """Size of one checkpoint, from which a training goes on."""
    return final_bytes(training) + optimiser_bytes(training)


def folder_bytes(training: Training) -> int:
    """Size of a training's folder at its end; one checkpoint is counted where their number is not known."""
    saves = 1 if training.saves is None else training.saves
    return final_bytes(training) + saves * checkpoint_bytes(training)
