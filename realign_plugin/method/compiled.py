"""The masked step as torch's compiler fuses it: the same operations on the same noise in a few passes over memory.

Triton kernels on a GPU, C++ on a CPU. What is compiled are the methods of ``draws.Draw`` themselves, which are also
the reference: results differ by rounding. torch is the only import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.method.choices import Estimator
from realign_plugin.method.draws import Draw

How = tuple[float, float | Tensor, Estimator, bool]
"""Temperature, scale of the noise, estimator and rescaling of a draw."""


def theta(logits: Tensor, aligned: Tensor | None, delta: Tensor, draw: Draw, dtype: torch.dtype) -> Tensor:
    """The effective parameters of one draw.

    Args:
        logits: Logits, of a shape that broadcasts against ``[rows, columns]``.
        aligned: theta_safe, ``[rows, columns]``; None stands for zeros.
        delta: The fused task vector, same shape.
        draw: How the mask is drawn.
        dtype: Dtype of the result; theta is rounded to it once.
    """
    tensors = _plain(logits, aligned, delta, draw.uniform(logits))
    result: Tensor = _compiled(_theta)(_how(draw, logits), dtype, *tensors)
    return result


def gradients(
    logits: Tensor, aligned: Tensor | None, delta: Tensor, draw: Draw, for_theta: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Theta as ``theta`` gives it, and the gradient with respect to the logits, from one more draw of the same mask.

    Args:
        logits: See ``theta``.
        aligned: See ``theta``.
        delta: See ``theta``.
        draw: See ``theta``.
        for_theta: d loss / d theta, ``[rows, columns]``.
        dtype: Dtype of theta; the gradient has the logits'.
    """
    tensors = _plain(logits, aligned, delta, draw.uniform(logits), for_theta)
    found: tuple[Tensor, Tensor] = _compiled(_gradients)(_how(draw, logits), dtype, *tensors)
    return found


def check_compiler(device: torch.device | str = "cpu") -> None:
    """Compile the step for a device, on a tensor as large as those of training.

    What is compiled first decides how the kernels are laid out, and torch's cache on disk keeps that.

    Raises:
        UserError: If that fails, because a compiler or Triton is missing.
    """
    zeros = torch.zeros(256, 4096, device=device)
    try:
        with torch.no_grad():  # as in training: with gradients it would be compiled for this check alone
            gradients(zeros, zeros, zeros, Draw(0), zeros, torch.float32)
    except Exception as error:  # whatever the compiler lacks, the fix is the same
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "error: " in line), lines[0] if lines else "no message")
        raise UserError(
            f"mask_compile: true, but torch.compile fails on {device} ({type(error).__name__}: {reason}), expected "
            "g++ and Python's headers on a CPU, Triton on a GPU; install them, or leave mask_compile out"
        ) from error


@lru_cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """Tensors that are not parameters, so that one compilation serves all."""
    return [None if tensor is None else tensor.detach() for tensor in tensors]


def _how(draw: Draw, logits: Tensor) -> How:
    """What the compiled functions depend on, without the seed.

    They are compiled again for each value of what is not a tensor: a scale of noise that moves has to be one.
    """
    noise = draw.noise
    if not isinstance(noise, Tensor) and noise not in (0.0, 1.0):
        noise = torch.full((), noise, dtype=torch.float32, device=logits.device)
    return draw.temperature, noise, draw.estimator, draw.rescale


def _theta(
    how: How, dtype: torch.dtype, logits: Tensor, aligned: Tensor | None, delta: Tensor, u: Tensor | None
) -> Tensor:
    draw = Draw(0, *how)
    mask, _ = draw.mask(logits, u)
    return draw.theta(aligned, delta, mask, draw.scale(mask), dtype=dtype)


def _gradients(
    how: How,
    dtype: torch.dtype,
    logits: Tensor,
    aligned: Tensor | None,
    delta: Tensor,
    u: Tensor | None,
    for_theta: Tensor,
) -> tuple[Tensor, Tensor]:
    draw = Draw(0, *how)
    mask, kept = draw.mask(logits, u)
    scale = draw.scale(mask)
    found = draw.logits_gradient(for_theta.float() * delta.float(), mask, kept, scale)
    return draw.theta(aligned, delta, mask, scale, dtype=dtype), found.to(logits.dtype)
