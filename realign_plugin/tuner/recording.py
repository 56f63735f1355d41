"""Records in the trainer's state which training it is of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transformers import TrainerCallback

from realign_plugin.subspace.training_record import KEY, TrainingRecord


class RecordTraining(TrainerCallback):  # type: ignore[misc]
    """Puts the record into the trainer's state, and compares it with that of the checkpoint that a run goes on from.

    Attributes:
        record: Of the run.
    """

    def __init__(self, record: TrainingRecord) -> None:
        self.record = record

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look before the first step.

        Raises:
            UserError: If the checkpoint is another training's.
        """
        if state.global_step > 0:
            name = f"resume_from_checkpoint: the checkpoint of step {state.global_step}"
            self.record.check(
                TrainingRecord.read(state.stateful_callbacks), name, "give one of this training, or none"
            )
        state.stateful_callbacks[KEY] = asdict(self.record)
