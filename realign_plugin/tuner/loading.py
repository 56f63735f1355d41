"""What a state dict may put into a model: PEFT skips tensors that do not fit, and torch's error has no end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from realign_plugin.errors import UserError
from realign_plugin.subspace.checkpoints import UNTIE
from realign_plugin.subspace.files import PREFIX
from realign_plugin.tuner.sharding import is_sharded


def check_state_dict(tuner: nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse an adapter's tensors that are not in the model or of another shape there, and another vocabulary's.

    Args:
        tuner: The ``SafetySubspaceModel``.
        state_dict: What is to be loaded.
        prefix: What its names have in front of the tuner's.

    Raises:
        UserError: With the first one.
    """
    model: Any = tuner.model
    vocabulary = _tables_of_the_vocabulary(model)
    own = {
        f"{prefix}{name}": parameter
        for name, parameter in tuner.named_parameters(remove_duplicate=False)
        if PREFIX in name or any(parameter is table for table in vocabulary)
    }
    for name, value in state_dict.items():
        known = own.get(name)
        if known is None:
            if PREFIX not in name or not name.startswith(prefix):
                continue
            raise UserError(
                f"adapter: {name} is not in {type(model).__name__}, expected the base model that the adapter was "
                "trained on; give that one"
            )
        if is_sharded(known) or value.shape == known.shape:
            continue
        fault = f"adapter: {name} has shape {tuple(value.shape)}, {tuple(known.shape)} in the model, expected"
        if PREFIX in name or value.shape[1:] != known.shape[1:]:
            raise UserError(f"{fault} the base model that the adapter was trained on; give that one")
        raise UserError(
            f"{fault} the vocabulary that it was saved with; call resize_token_embeddings({len(value)}) on the base "
            "model first"
        )


def check_untied_head(model: Any, layers: Iterable[Any]) -> None:
    """Refuse to merge into an output head that is the embedding: tokens would be read by the merged weight, too.

    Args:
        model: The base model with its adapters.
        layers: The layers that they are merged into.

    Raises:
        UserError: With the module.
    """
    tables = _tables_of_the_vocabulary(model)
    if len(tables) < 2 or tables[0] is not tables[1]:
        return
    head = model.get_output_embeddings()
    for layer in layers:
        if layer is head:
            raise UserError(
                f"adapter: {layer.module_name} is tied to the embedding in {type(model).__name__}, which merging "
                f"would change too, {UNTIE}"
            )


def _tables_of_the_vocabulary(model: Any) -> list[Tensor]:
    """The weights of the embedding and the output head, which PEFT saves where the vocabulary was resized."""
    found = []
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found.append(getattr(model, getter)().weight)
        except (AttributeError, NotImplementedError):  # a model without one
            continue
    return found
