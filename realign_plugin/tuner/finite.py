"""Whether what was trained is still numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.subspace.tensor_files import all_finite

FIX: Final = (
    "go on from an earlier checkpoint with a smaller learning_rate, or on a GPU with another attention "
    "(flash_attn: disabled; torch 2.11's cuDNN attention gave NaN there)"
)


def check_gradients(logs: Mapping[str, float], step: int) -> None:
    """Refuse gradients that are not numbers.

    Args:
        logs: What is logged, with ``grad_norm`` where it is known.
        step: The last step.

    Raises:
        UserError: If their norm is NaN.
    """
    if math.isnan(float(logs.get("grad_norm", 0.0))):
        raise UserError(f"grad_norm: nan by step {step}, expected a number; {FIX}")


def check_trained(tensors: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Refuse to save tensors that are not numbers.

    Args:
        tensors: What is saved, by name.
        step: The last step.

    Raises:
        UserError: With the first that holds NaN or infinite numbers.
    """
    for name, tensor in tensors:
        if not all_finite(tensor.detach()):
            raise UserError(
                f"{name} holds NaN or infinite numbers by step {step}, expected finite ones; it is not saved, {FIX}"
            )
