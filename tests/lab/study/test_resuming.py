"""A training that was cut off goes on to the model it would have given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file

from realign_plugin.lab.study.resuming import go_on
from tests.conftest import training_options

STOCK = {"stage": "dpo", "finetuning_type": "lora", "lora_rank": 4, "aligned_adapter": None, "task_adapters": None}


def train(lab: Path, out: Path, **changes: Any) -> dict[str, torch.Tensor]:
    common = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01}
    run_exp(training_options(lab, out, **(common | changes)))
    return load_file(out / "adapter_model.safetensors")


@pytest.mark.parametrize("limit", [None, 1])
def test_stock_training_killed_before_its_final_save(lab: Path, tmp_path: Path, limit: int | None) -> None:
    expected = train(lab, tmp_path, save_total_limit=limit, **STOCK)
    kept = "checkpoint-2" if limit is None else "checkpoint-4"
    assert (tmp_path / kept).is_dir()
    go_on(tmp_path, "dpo")
    assert not (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "checkpoint-4").exists()
    found = train(lab, tmp_path, save_total_limit=limit, **STOCK)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("state", "stage", "kept"),
    [
        ({"global_step": 4, "max_steps": 4, "epoch": 0.7}, "sft", False),
        ({"global_step": 4, "max_steps": 4, "epoch": 0.7}, "mask_dpo", True),
        ({"global_step": 4, "max_steps": 4, "epoch": 2.0}, "sft", True),
        ({"global_step": 3, "max_steps": 4, "epoch": 0.5}, "sft", True),
        ([], "sft", True),
    ],
)
def test_which_checkpoints_are_gone_on_from(tmp_path: Path, state: Any, stage: str, kept: bool) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "optimizer.pt").touch()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(json.dumps(state))
    go_on(tmp_path, stage)
    assert (tmp_path / "checkpoint-4").is_dir() == kept


@pytest.mark.parametrize(
    ("step", "holds", "kept"),
    [
        (2, None, False),
        (4, None, True),  # nothing is left to train
        *((2, name, True) for name in ("optimizer.pt", "optimizer.bin", "optimizer_0", "global_step2")),
    ],
)
def test_a_checkpoint_of_the_model_alone_is_not_gone_on_from(
    tmp_path: Path, step: int, holds: str | None, kept: bool
) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 4, "epoch": 0.5}))
    (checkpoint / "scheduler.pt").touch()
    if holds is not None:
        (checkpoint / holds).touch()
    go_on(tmp_path, "mask_dpo")
    assert checkpoint.is_dir() == kept
