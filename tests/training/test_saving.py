"""A training's save that is killed, or that would save what is not numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace, UserError
from realign_plugin.training.adapter_trainer import AdapterTrainer
from realign_plugin.training.trainer import MaskDPOTrainer
from tests.conftest import training_options
from tests.kills import RENAMES, kill_at_each_change


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_save_that_is_killed_leaves_the_old_adapter_or_the_new_one(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: bool
) -> None:
    run, written, trainers = tmp_path / "run", tmp_path / "written", []
    stock = MaskDPOTrainer.save_model

    def kept(self: Any, *args: Any, **kwargs: Any) -> None:
        trainers.append(self)
        stock(self, *args, **kwargs)

    monkeypatch.setattr(MaskDPOTrainer, "save_model", kept)
    saves = {"save_strategy": "steps", "save_steps": 1} if checkpoints else {"save_strategy": "no"}
    run_exp(training_options(lab, run, max_steps=1, **saves))
    shutil.copytree(run, written)
    trainer = trainers[-1]
    trainer.model.peft_config["default"].mask_threshold = 0.25  # another configuration goes with the other logits
    with torch.no_grad():
        for logits in trainer.model.base_model.logits():
            logits.fill_(7.0)
    found = set()

    def before() -> None:
        shutil.rmtree(run)
        shutil.copytree(written, run)

    def after() -> None:
        subspace = SafetySubspace.load(run)
        new = {bool((pair[factor] == 7.0).all()) for pair in subspace.logits.values() for factor in "AB"}
        assert new == {subspace.spec.mask_threshold == 0.25}
        found.update(new)
        assert (run / "trainer_log.jsonl").is_file()
        if checkpoints:
            assert (run / "checkpoint-1" / "optimizer.pt").is_file()
        assert not list(run.glob(".*"))

    changes = kill_at_each_change(tmp_path, before, lambda: trainer._save(str(run)), after, RENAMES)
    assert changes > 5
    assert found == {False, True}
    trainer._save(str(run))
    trainer.save_state()
    assert not list(tmp_path.glob(".*")) + list(run.glob(".*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_what_is_not_numbers_is_not_saved(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: float
) -> None:
    """Though nothing is logged between the gradient and the save; a checkpoint before it stays."""
    step = AdapterTrainer.training_step

    def spoilt(self: AdapterTrainer, model: Any, *args: Any) -> Any:
        loss = step(self, model, *args)
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = value  # type: ignore[index]
        return loss

    monkeypatch.setattr(AdapterTrainer, "training_step", spoilt)
    lora = {"stage": "safety_distill", "finetuning_type": "lora", "dataset": "safety,skill", "skill_dataset": "skill"}
    saves = {"max_steps": 3, "logging_steps": 500, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(
        UserError, match=r"base_model\.model.* holds NaN or infinite numbers by step 3, expected finite"
    ):
        run_exp(training_options(lab, tmp_path, **(lora if kind == "lora" else {}), **saves))
    assert not (tmp_path / "adapter_model.safetensors").exists()
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").is_file()
