"""What a repair will cost, printed before it starts."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Final

from realign_plugin.lab.repair.parts import Part, Parts
from realign_plugin.lab.repair.plan import CUTOFF, ROWS, Inputs, default_batch_size

SIDE: Final = 2048
"""Size of the matrices whose product measures the machine's speed."""
USED: Final = {"cuda": 0.15, "cpu": 0.4}
"""Share of that speed that a small training or generation reaches."""
CHARACTERS: Final = 4
"""Characters of a token."""
START: Final = 20.0
"""Seconds until a process has imported its libraries and loaded the model."""
TOKEN: Final = 0.03
"""Seconds that a batch waits for its next token at least, however fast the device: launches, Python."""
TRAINING_STEP: Final = 0.5
"""The same of a training step."""
STEP: Final = 8
"""Floating-point operations of a training step, for each weight and token: the student forwards and backwards, and the
teacher."""


def lines(inputs: Inputs, parts: Parts) -> list[str]:
    """What is left to do, and roughly how long it will take."""
    spent, train = inputs.spent, parts.train
    candidates = len(inputs.methods) * len(spent.strengths)
    rounds = ((parts.validation, 2 + candidates), (parts.test, 3))
    answers = 2 * (len(train.harmful) + len(train.benign))
    answers += sum(times * (len(part.harmful) + len(part.benign)) for part, times in rounds)
    found = [
        f"To do: {answers:,} answers of at most {spent.answer_tokens} tokens, {len(inputs.methods)} "
        f"training{'s' if len(inputs.methods) > 1 else ''} of {spent.steps} steps of {ROWS} rows, "
        f"{sum(times * len(part.skill) for part, times in rounds):,} rows of the skill to read."
    ]
    weights = _weights(inputs.base)
    if weights is not None:
        row = _row_tokens(train, spent.answer_tokens)
        tokens = 2.0 * answers * (row + spent.answer_tokens)
        tokens += STEP * len(inputs.methods) * spent.steps * ROWS * row
        tokens += sum(4.0 * times * len(part.skill) * row for part, times in rounds)
        waits = START * (len(inputs.methods) + 3) + TRAINING_STEP * len(inputs.methods) * spent.steps
        waits += TOKEN * spent.answer_tokens * answers / default_batch_size()
        minutes = math.ceil((weights * tokens / _speed() + waits) / 60)
        found.append(f"About {minutes} minute{'s' if minutes > 1 else ''} on this machine, {_device()}.")
    return found


def _weights(base: str) -> int | None:
    """How many weights a model has; None for one that is not a folder here."""
    if not Path(base).is_dir():
        return None
    from realign_plugin.subspace.checkpoints import Checkpoint

    model = Checkpoint(base, "BASE")
    return sum(math.prod(model.shape(name)) for name in model.names)


def _row_tokens(part: Part, answer: int) -> float:
    """Tokens of a training row, on average, by its characters."""
    texts = [len(prompt.text) / CHARACTERS + answer for prompt in (*part.harmful, *part.benign)]
    texts += [(len(row.prompt.text) + len(row.answer)) / CHARACTERS for row in part.skill]
    return sum(min(CUTOFF, text) for text in texts) / len(texts)


def _speed() -> float:
    """Floating-point operations a second that training can count on, from one product of matrices."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(SIDE, SIDE, dtype=torch.bfloat16, device=device)
    best = math.inf
    for _ in range(3):
        start = time.monotonic()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.monotonic() - start)
    return USED[device] * 2 * SIDE**3 / best


def _device() -> str:
    import os

    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{os.cpu_count()} processor cores without a GPU"
