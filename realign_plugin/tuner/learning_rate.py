"""Whether a learning rate moves the logits of a mask at all."""

from __future__ import annotations

import sys
from typing import Any, Final

from transformers import TrainerCallback

RECOMMENDED_LORA: Final = 1e-4
"""Of a LoRA adapter that is distilled from where fine-tuning left it."""
RECOMMENDED: Final = 0.1
"""Logits start at 0 and decide at 1 or more; the host's own default (5e-5) is for weights."""
LEAST: Final = 1.0
"""How far a logit has to be able to go: it takes the soft mask from 0.5 to 0.73."""


def reach(rate: float, steps: int, scheduler: Any = None) -> float:
    """How far Adam can move a parameter: about the learning rate in each step.

    Args:
        rate: The learning rate.
        steps: Steps in all.
        scheduler: torch's scheduler, whose factors count where it has any.
    """
    factors = getattr(getattr(scheduler, "scheduler", scheduler), "lr_lambdas", None)
    return rate * (sum(factors[0](step) for step in range(steps)) if factors else steps)


class WarnOfStandstill(TrainerCallback):  # type: ignore[misc]
    """Warns at the start of a run whose learning rate cannot move a logit by ``LEAST`` in the steps there are."""

    def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **kwargs: Any) -> None:
        """Compare the learning rate with the steps, which are known now."""
        far = reach(args.learning_rate, state.max_steps, lr_scheduler)
        if state.is_world_process_zero and "adam" in str(args.optim).lower() and far < LEAST:
            print(
                f"realign-plugin: learning_rate: {args.learning_rate:g} over {state.max_steps} steps moves no logit "
                f"by more than about {far:.2g}, expected {LEAST:g} or more for a mask that decides; raise "
                f"learning_rate ({RECOMMENDED:g} is usual) or max_steps",
                file=sys.stderr,
            )
