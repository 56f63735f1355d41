"""A LoRA adapter of which each process holds a part, saved and read as a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from realign_plugin.errors import UserError
from realign_plugin.subspace.lora_adapters import WEIGHTS_NAME
from realign_plugin.subspace.tensor_files import read_tensors
from realign_plugin.tuner.sharding import whole, write_whole

TRAINED: Final = "default"
"""The adapter that is trained; the others are its teachers."""


def whole_lora(peft_model: Any, keep: bool = True) -> dict[str, Tensor]:
    """The trained adapter's tensors, on the CPU, gathered from all processes.

    Args:
        peft_model: The model, unwrapped.
        keep: Whether this process wants the tensors; all have to call this, one has to hold them.

    Returns:
        Tensors by their names in the PEFT model; empty unless ``keep``.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in _trained(peft_model):
        tensor = whole(parameter)
        if keep:
            state[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return state


def load_whole_lora(peft_model: Any, folder: str | Path) -> None:
    """Read a saved adapter into the trained one's parameters, each process its part.

    Args:
        peft_model: The model, unwrapped.
        folder: Where it was saved; every process reads it.

    Raises:
        UserError: If it is missing or corrupt, or has other tensors.
    """
    file = Path(folder) / WEIGHTS_NAME
    saved = read_tensors(file, "adapter")
    parameters = {name.replace(f".{TRAINED}", ""): parameter for name, parameter in _trained(peft_model)}
    if other := sorted(saved.keys() ^ parameters.keys()):
        raise UserError(
            f"{file}: {other[0]} is in {'the model' if other[0] in parameters else 'the file'} alone, expected the "
            "same tensors in both; give the adapter of this run"
        )
    for name, parameter in parameters.items():
        write_whole(parameter, saved[name])


def _trained(peft_model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name and f".{TRAINED}" in name:
            yield name, parameter
