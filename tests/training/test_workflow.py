"""What a run says that is started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from tests.conftest import training_options


class StopEarly(TrainerCallback):  # type: ignore[misc]
    """Stops a training after its second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


def test_a_run_that_was_stopped_early(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = training_options(lab, tmp_path, max_steps=4, save_strategy="steps", save_steps=1)
    run_exp(options, callbacks=[StopEarly()])
    capsys.readouterr()
    run_exp(options)
    assert f"{tmp_path} is finished: it was stopped early, after 2 of 4 steps" in capsys.readouterr().err
