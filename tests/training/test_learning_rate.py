"""A learning rate that moves the logits, where none is given; a word where the given one cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.hparams import get_train_args
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace
from realign_plugin.tuner.learning_rate import RECOMMENDED, reach
from tests.conftest import training_options

SLOW = "moves no logit by more than about"


def test_a_rate_that_is_left_out_moves_logits(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_exp(training_options(lab, tmp_path, learning_rate=None, max_steps=12))
    err = capsys.readouterr().err
    assert "learning_rate is not set: 0.1" in err
    assert SLOW not in err
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert log[0]["learning_rate"] == RECOMMENDED
    logits = SafetySubspace.load(tmp_path).logits
    assert max(float(t.abs().max()) for pair in logits.values() for t in pair.values()) > 0.9


def test_a_rate_that_moves_none_is_named(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_exp(training_options(lab, tmp_path, learning_rate=5e-5, max_steps=3))
    err = capsys.readouterr().err
    assert f"learning_rate: 5e-05 over 3 steps {SLOW} 0.00015, expected 1 or more" in err
    logits = SafetySubspace.load(tmp_path).logits
    assert max(float(t.abs().max()) for pair in logits.values() for t in pair.values()) < 1.1 * 1.5e-4


@pytest.mark.parametrize("words", [["--learning_rate", "5e-5"], ["--learning_rate=5e-5"], ["--learning-r", "5e-5"]])
def test_a_rate_among_flags(lab: Path, tmp_path: Path, words: list[str]) -> None:
    options = training_options(lab, tmp_path / "run", learning_rate=None, task_adapters=str(lab / "task1"))
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert get_train_args(flags)[2].learning_rate == RECOMMENDED
    assert get_train_args([*flags, *words])[2].learning_rate == 5e-5


def test_other_stages_keep_the_hosts(lab: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"stage": "dpo", "finetuning_type": "lora", "aligned_adapter": None}
    options = training_options(lab, tmp_path, learning_rate=None, task_adapters=None, **changes)
    assert get_train_args(options)[2].learning_rate == 5e-5


def test_the_schedule_counts() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / 10))
    assert reach(0.1, 10, falling) == pytest.approx(0.55)
    assert reach(0.1, 10) == pytest.approx(1.0)
