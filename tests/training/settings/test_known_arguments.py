from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.training.settings.known_arguments import check_arguments, known_arguments


def test_no_argument_that_the_host_takes_is_unknown() -> None:
    from llamafactory.hparams import parser
    from transformers import HfArgumentParser

    actions = HfArgumentParser(parser._TRAIN_ARGS)._actions
    assert {action.dest for action in actions} - {"help"} <= known_arguments().keys() | {
        action.dest for action in actions if any(word.startswith("--no_") for word in action.option_strings)
    }
    assert "mask_noise_end" in known_arguments()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_step": 3}, "train.all: 'max_step' is unknown, expected one of .*max_steps"),
        ({"pref_ftxx": 0.5}, "did you mean 'pref_ftx'"),
        ({"max_steps": "forty"}, r"train\.all\.max_steps: 'forty', expected a number"),
    ],
)
def test_what_no_training_takes_is_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_arguments(arguments, "train.all")


def test_what_trainings_take_passes() -> None:
    good = {"learning_rate": "1e-4", "max_steps": 3, "lora_target": "all", "bf16": True, "fusion_method": "ties"}
    check_arguments(good | {"task_weight": "0.3,0.4", "save_steps": 0.5}, "train.all")


def test_words_that_hold_the_name_of_a_number_are_no_numbers() -> None:
    check_arguments({"mix_strategy": "concat", "infer_dtype": "bfloat16"}, "x.yaml")
