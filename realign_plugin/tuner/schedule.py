"""The callback that lowers the mask's noise as training goes on, for any of transformers' trainers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from realign_plugin.method.masks import scheduled_noise


class NoiseSchedule(TrainerCallback):  # type: ignore[misc]
    """Tells the layers how much noise to draw with, from the trainer's step count, which a resumed run restores."""

    def __init__(self, start: float, end: float | None) -> None:
        self.start = start
        self.end = end

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the noise of the step that begins."""
        model.base_model.set_noise(scheduled_noise(state.global_step, state.max_steps, self.start, self.end))
