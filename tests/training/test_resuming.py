"""A run that has no step left: killed after its last checkpoint, or finished and started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file

from realign_plugin.training.resuming import is_finished
from realign_plugin.training.trainer import MaskDPOTrainer
from tests.conftest import training_options

OPTIONS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}  # six steps are an epoch


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts training steps."""
    counted: list[int] = []
    stock = MaskDPOTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(1)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(MaskDPOTrainer, "training_step", step)
    return counted


def test_killed_between_the_last_checkpoint_and_the_final_save(
    lab: Path, tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run_exp(training_options(lab, tmp_path, plot_loss=True, **OPTIONS))
    whole = contents(tmp_path)
    for name in set(whole) - {"trainer_log.jsonl"}:
        (tmp_path / name).unlink()
    steps.clear()
    run_exp(training_options(lab, tmp_path, plot_loss=True, **OPTIONS))
    assert not steps
    assert "was stopped before its model was saved" in capsys.readouterr().err
    found = contents(tmp_path)
    assert found["adapter_model.safetensors"] == whole["adapter_model.safetensors"]
    assert json.loads(found["trainer_state.json"])["global_step"] == 4
    assert set(whole) - set(found) <= {"all_results.json", "train_results.json"}  # no time was measured


def test_a_finished_run_started_again_does_nothing_and_says_so(
    lab: Path, tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"val_size": 0.25, "do_eval": True}
    run_exp(training_options(lab, tmp_path, **options))
    whole = contents(tmp_path)
    steps.clear()
    capsys.readouterr()
    run_exp(training_options(lab, tmp_path, **options))
    assert not steps
    found = contents(tmp_path)
    logs = {"trainer_log.jsonl", "training_args.bin"}
    assert {name for name in whole if found[name] != whole[name]} <= logs
    assert f"{tmp_path} is finished: all of its 4 steps had been trained" in capsys.readouterr().err


def test_a_finished_run_that_kept_only_its_best_checkpoint(lab: Path, tmp_path: Path, steps: list[int]) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_mask/mean", "save_total_limit": 1}
    options = OPTIONS | best | {"val_size": 0.25, "eval_strategy": "steps", "eval_steps": 2}
    run_exp(training_options(lab, tmp_path, **options))
    before = load_file(tmp_path / "adapter_model.safetensors")
    steps.clear()
    run_exp(training_options(lab, tmp_path, **options))
    assert not steps
    after = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_steps_are_trained(lab: Path, tmp_path: Path, steps: list[int]) -> None:
    run_exp(training_options(lab, tmp_path, **OPTIONS))
    assert is_finished(tmp_path, 4)
    assert not is_finished(tmp_path, 6)
    assert not is_finished(tmp_path / "checkpoint-2" / "nowhere", 4)
    steps.clear()
    run_exp(training_options(lab, tmp_path, **(OPTIONS | {"max_steps": 6})))
    assert len(steps) == 2
