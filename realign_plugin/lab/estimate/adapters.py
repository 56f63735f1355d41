"""Which modules a LoRA adapter touches, with which shapes: from ``adapter_config.json`` or a training's options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate.shapes import ModelShapes, meta_model, model_shapes
from realign_plugin.subspace.lora_adapters import WEIGHTS_NAME, read_adapter_config
from realign_plugin.subspace.lora_names import MODEL_PREFIX, natural_key
from realign_plugin.subspace.tensor_files import open_tensors

ALL: Final = ("all", "all-linear")
STORED: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def matching(model: ModelShapes, names: Sequence[str] | str, what: str) -> list[str]:
    """The linear modules that names stand for, as LLaMA-Factory and PEFT read them.

    Args:
        model: The model.
        names: ``all``, ends of names (a list, or text with commas), or full names.
        what: The option that names them.

    Raises:
        UserError: If a name matches nothing; the closest is named.
    """
    wanted = [part.strip() for part in names.split(",")] if isinstance(names, str) else [str(n) for n in names]
    if len(wanted) == 1 and wanted[0] in ALL:
        return list(model.inner)
    for end in wanted:
        if not any(_ends(module, end) for module in model.linears):
            known = sorted({module.rpartition(".")[2] for module in model.inner})
            near = difflib.get_close_matches(end.rpartition(".")[2], known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{what}: {end!r} is not a linear module of {model.architecture} ({model.name}), expected names like "
                f"{', '.join(known[:8])}{hint}"
            )
    return [module for module in model.linears if any(_ends(module, end) for end in wanted)]


def _ends(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


@dataclass(frozen=True)
class AdapterShapes:
    """What a LoRA adapter is made of.

    Attributes:
        ranks: Rank by full module name, in natural order.
        dtype: Dtype of its factors.
        known: Whether the dtype was read from its file; else it is what LLaMA-Factory saves.
    """

    ranks: dict[str, int]
    dtype: torch.dtype = torch.float32
    known: bool = False


def adapter_shapes(path: str | Path, model: ModelShapes, what: str) -> AdapterShapes:
    """Shapes of an adapter on disk, from its configuration; the dtype from the header of its file, if it is there.

    Raises:
        UserError: If it is missing, not a LoRA adapter, or names modules that the model lacks.
    """
    config = read_adapter_config(Path(path), what)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{what}: {path} has peft_type {config.get('peft_type')!r}, expected 'LORA'; give a LoRA adapter"
        )
    if config.get("target_parameters"):
        raise UserError(
            f"{what}: {path} adapts target_parameters ({', '.join(config['target_parameters'])[:80]}), expected "
            "linear modules alone; the cost of others cannot be estimated"
        )
    targets = config.get("target_modules") or []
    if isinstance(targets, str) and targets not in ALL:
        found = [module for module in model.linears if re.fullmatch(targets, module)]
        if not found:
            raise UserError(f"{what}: target_modules {targets!r} matches no linear module of {model.name}; check both")
    elif not isinstance(targets, str):
        matching(model, targets, f"{what}: target_modules")
    ranks = _lora_ranks(str(path), model)
    file = Path(path) / WEIGHTS_NAME
    if not file.is_file():
        return AdapterShapes(ranks)
    reader = open_tensors(file, what)
    first = next(iter(reader.keys()), None)
    stored = "F32" if first is None else reader.get_slice(first).get_dtype()
    return AdapterShapes(ranks, getattr(torch, STORED.get(stored, "float32")), True)


@lru_cache
def _ranks(path: str, name: str) -> tuple[tuple[str, int], ...]:
    """Which modules PEFT would adapt, and with which rank: its own rules, on a model without numbers."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    config: Any = LoraConfig.from_pretrained(path)
    config.inference_mode = True
    shapes = model_shapes(name)
    with torch.device("meta"):
        adapted = get_peft_model(meta_model(shapes.config, name), config)
    return tuple(
        (key.removeprefix(MODEL_PREFIX), part.r["default"])
        for key, part in adapted.named_modules()
        if isinstance(part, LoraLayer)
    )


def _lora_ranks(path: str, model: ModelShapes) -> dict[str, int]:
    found = dict(_ranks(path, model.name))
    return {module: found[module] for module in sorted(found, key=natural_key)}


def planned_adapter(options: Mapping[str, Any], model: ModelShapes, what: str) -> AdapterShapes:
    """Shapes of an adapter that LLaMA-Factory is yet to train.

    Raises:
        UserError: If ``lora_target`` names modules that the model lacks.
    """
    rank = int(options.get("lora_rank") or 8)
    names = matching(model, options.get("lora_target") or "all", what)
    dtype = torch.bfloat16 if options.get("pure_bf16") else torch.float32
    return AdapterShapes(dict.fromkeys(names, rank), dtype)


def factor_shapes(model: ModelShapes, ranks: Mapping[str, int]) -> dict[str, dict[str, tuple[int, int]]]:
    """``{module: {"A": (r, in), "B": (out, r)}}`` of an adapter."""
    return {
        module: {"A": (rank, model.linears[module][1]), "B": (model.linears[module][0], rank)}
        for module, rank in ranks.items()
    }
