"""Records in the trainer's state which training it is of, and refuses checkpoints that cannot be gone on from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transformers import TrainerCallback

from realign_plugin.errors import UserError
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


class RequireOptimizer(TrainerCallback):  # type: ignore[misc]
    """Refuses a checkpoint without its optimiser: transformers would go on with a fresh one and a fresh schedule."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Look before the first step.

        Raises:
            UserError: If neither the optimiser nor the schedule has taken a step.
        """
        known = lr_scheduler.state_dict() if hasattr(lr_scheduler, "state_dict") else {}
        if state.global_step > 0 and known.get("last_epoch") == 0 and not getattr(optimizer, "state", None):
            raise UserError(
                f"resume_from_checkpoint: the checkpoint of step {state.global_step} holds no state of the optimiser "
                "(save_only_model: true), expected it, to go on with; start from the beginning in another output_dir, "
                "and without save_only_model"
            )
