"""Runs of several processes that would go wrong are refused before they start."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from llamafactory.train.tuner import run_exp

from realign_plugin import UserError
from realign_plugin.training import command_line
from realign_plugin.training.distill_trainer import SafetyDistillTrainer
from realign_plugin.training.processes import check_processes, fsdp_version, zero_stage
from realign_plugin.training.trainer import MaskDPOTrainer
from tests.conftest import training_options


def zero(stage: int) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage}}


def test_the_stage_of_zero_is_read_from_a_file_or_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(zero(3)))
    assert zero_stage(str(file)) == zero_stage(zero(3)) == 3
    file.write_text("{broken")
    for nothing in (str(file), str(tmp_path / "none.json"), None, {}, {"zero_optimization": None}):
        assert zero_stage(nothing) == 0


def test_a_keep_penalty_needs_a_gradient() -> None:
    with pytest.raises(UserError, match=r"^mask_keep_weight: 0.5 has no gradient under DeepSpeed ZeRO-3, expected 0"):
        check_processes({"mask_keep_weight": 0.5, "deepspeed": zero(3)})
    check_processes({"mask_keep_weight": 0.5, "deepspeed": zero(2)})
    check_processes({"mask_keep_weight": 0.0, "deepspeed": zero(3)})
    check_processes({"deepspeed": zero(3)})


def test_the_first_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert fsdp_version({"fsdp": "", "fsdp_config": {}}) is None
    assert fsdp_version({"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}}) == 2
    with pytest.raises(UserError, match=r"fsdp_version: 1 flattens .* expected 2; set fsdp_version: 2"):
        check_processes({"fsdp": ["full_shard"], "fsdp_config": {}})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_processes({})
    monkeypatch.delenv("FSDP_VERSION")
    with pytest.raises(UserError, match="fsdp_version: 1"):
        check_processes({})


def test_flags_and_files_are_checked_alike(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(json.dumps(zero(3)))
    options = training_options(lab, tmp_path / "run", mask_keep_weight=0.1, deepspeed=str(tmp_path / "zero.json"))
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(options))
    flags = [word for key, value in options.items() if key != "task_adapters" for word in (f"--{key}", str(value))]
    for argv in ([str(file)], [*flags, "--task_adapters", str(lab / "task1")]):
        with pytest.raises(UserError, match=r"mask_keep_weight: 0\.1 has no gradient"):
            command_line.check_command(argv)


def test_a_run_is_refused_before_a_model_is_loaded(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    monkeypatch.setattr("llamafactory.train.tuner.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="fsdp_version: 1"):
        run_exp(training_options(lab, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("others", "skipped"), [(1.0, True), (0.0, False)])
def test_sharded_processes_skip_the_reference_together(others: float, skipped: bool) -> None:
    trainer = MaskDPOTrainer.__new__(MaskDPOTrainer)
    trainer.args = SimpleNamespace(world_size=2)
    votes: list[float] = []

    def reduce(vote: torch.Tensor) -> torch.Tensor:
        votes.append(float(vote))
        return vote + others

    trainer.accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP, device=torch.device("cpu"), reduce=reduce
    )
    assert trainer._all(True) is skipped
    assert trainer._all(False) is False
    assert votes == [1.0, 0.0]  # who knows nothing has to vote too, or the others wait
    trainer.accelerator.distributed_type = DistributedType.MULTI_GPU
    assert trainer._all(True) is True
    assert trainer._any(False) is False
    assert len(votes) == 2


@pytest.mark.parametrize(("others", "some"), [(1.0, True), (0.0, False)])
def test_sharded_processes_run_a_teacher_that_one_of_them_needs(others: float, some: bool) -> None:
    trainer = SafetyDistillTrainer.__new__(SafetyDistillTrainer)
    trainer.args = SimpleNamespace(world_size=2)
    trainer.accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP, device=torch.device("cpu"), reduce=lambda vote: vote + others
    )
    assert trainer._any(False) is some
    assert trainer._any(True) is True
