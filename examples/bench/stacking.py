"""A LoRA adapter whose update is the weighted sum of others' updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import pad

from realign_plugin.files import write_json
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, LoraAdapter, read_lora
from realign_plugin.subspace.lora_names import MODEL_PREFIX


def stack(adapters: Mapping[Path, float], out: Path) -> Path:
    """Write the sum, exactly: the factors side by side, filled up with zeros to one rank.

    Args:
        adapters: Folders of adapters of one base model, with their weights.
        out: Folder to write.
    """
    read = [(read_lora(path, str(path)), weight) for path, weight in adapters.items()]
    modules = list(dict.fromkeys(module for adapter, _ in read for module in adapter.factors))
    rank, state = sum(adapter.config.r for adapter, _ in read), {}
    for module in modules:
        parts = [(one.factors[module], weight * scale(one, module)) for one, weight in read if module in one.factors]
        a = torch.cat([pair["A"].float() for pair, _ in parts])
        b = torch.cat([pair["B"].float() * factor for pair, factor in parts], dim=1)
        more = rank - a.shape[0]
        state[f"{MODEL_PREFIX}{module}.lora_A.weight"] = pad(a, (0, 0, 0, more)).contiguous()
        state[f"{MODEL_PREFIX}{module}.lora_B.weight"] = pad(b, (0, more)).contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS_NAME, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": modules}
    write_json(out / CONFIG_NAME, config | {"base_model_name_or_path": read[0][0].base_model})
    return out


def scale(adapter: LoraAdapter, module: str) -> float:
    """What B A is multiplied by."""
    rank = adapter.ranks[module]
    return float(adapter.alphas[module] / (rank**0.5 if adapter.config.use_rslora else rank))
