"""The hooks into LLaMA Board, the host's web interface: our stages and type in its lists, and what it leaves out."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from realign_plugin.training.settings.preflight import DISTILL, STAGE, STAGES, TYPE

STAGE_NAMES: Final = {"Masked DPO": STAGE, "Safety distillation": DISTILL}
"""What the list of stages shows."""


def attach_constants(constants: ModuleType) -> None:
    """Put our stages and our type into the lists that the interface is built from."""
    constants.TRAINING_STAGES.update(STAGE_NAMES)
    constants.STAGES_USE_PAIR_DATA.add(STAGE)
    constants.METHODS.append(TYPE)
    constants.PEFT_METHODS.add(TYPE)


def attach_runner(runner: ModuleType) -> None:
    """Complete the arguments of a training with one of our stages.

    The interface sends the preference options to stages that it knows, and its own learning rate, which is for weights
    and moves no mask; while that is untouched, ours is taken.
    """
    parse = runner.Runner._parse_train_args

    @functools.wraps(parse)
    def parse_train_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args: dict[str, Any] = parse(self, data)
        if args["stage"] not in STAGES:
            return args
        field = self.manager.get_elem_by_id("train.learning_rate")
        if args["learning_rate"] == float(data[field]) == float(field.value):
            del args["learning_rate"]
        if args["stage"] == STAGE:
            for name in ("pref_beta", "pref_ftx", "pref_loss"):
                args.setdefault(name, data[self.manager.get_elem_by_id(f"train.{name}")])
        return args

    runner.Runner._parse_train_args = parse_train_args
