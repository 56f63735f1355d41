"""How masks are drawn as training goes on: the noise that falls, and the options of a second training."""

from __future__ import annotations

from collections.abc import Mapping
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


def train_with(tuner: Any, options: Mapping[str, Any], adapter_name: str = "default") -> None:
    """Choose how a subspace that was trained before is trained further; it is saved with the adapter.

    Args:
        tuner: The ``SafetySubspaceModel``.
        options: ``mask_temperature``, ``mask_estimator``, ``mask_noise`` and the like.
        adapter_name: The adapter.
    """
    layers = [layer for layer in tuner.layers() if adapter_name in layer.specs]
    for spec in (tuner.peft_config[adapter_name], *(layer.specs[adapter_name] for layer in layers)):
        for name, value in options.items():
            setattr(spec, name, value)
