"""Runs of several processes that would go wrong are refused before they start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from llamafactory.train.tuner import run_exp

from realign_plugin import UserError
from realign_plugin.training.distill_trainer import SafetyDistillTrainer
from realign_plugin.training.fsdp import compute_in_bf16, prepare_fsdp
from realign_plugin.training.settings import command_line
from realign_plugin.training.settings.processes import check_processes, fsdp_version, launched_by, zero_stage
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


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what ``accelerate launch`` sets for FSDP; all of it is taken back after the test."""

    def launch(**settings: str) -> None:
        for name in ("SHARDING_STRATEGY", "RESHARD_AFTER_FORWARD", "ACTIVATION_CHECKPOINTING"):
            monkeypatch.delenv(f"FSDP_{name}", raising=False)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
        monkeypatch.setenv("FSDP_BACKWARD_PREFETCH", "BACKWARD_PRE")
        for name, value in ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"} | settings).items():
            monkeypatch.setenv(name, value)

    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    return launch


def test_what_fsdp2_cannot_do_is_refused(launched: Callable[..., None]) -> None:
    assert fsdp_version({"fsdp": "", "fsdp_config": {}}) is None
    assert fsdp_version({"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}}) == 2
    assert fsdp_version({"fsdp": "full_shard", "fsdp_config": '{"version": "2"}'}) == 2
    assert fsdp_version({"fsdp": "full_shard", "fsdp_config": '{"version": 2'}) == 1
    assert zero_stage('{"zero_optimization": {"stage": 3}}') == 3
    with pytest.raises(UserError, match=r"^fsdp_config: FSDP version 1 flattens .* expected version 2; set fsdp_conf"):
        check_processes({"fsdp": ["full_shard"], "fsdp_config": {}})
    checkpointing = {"fsdp": "full_shard", "fsdp_config": {"version": 2, "activation_checkpointing": True}}
    with pytest.raises(UserError, match=r"^fsdp_activation_checkpointing: true would draw other masks"):
        check_processes(checkpointing)
    check_processes(checkpointing | {"finetuning_type": "lora"})
    launched(FSDP_SHARDING_STRATEGY="HYBRID_SHARD")
    with pytest.raises(UserError, match=r"^fsdp_sharding_strategy: HYBRID_SHARD is FSDP1's .* expected FULL_SHARD"):
        check_processes({})
    launched(FSDP_ACTIVATION_CHECKPOINTING="true", FSDP_VERSION="2")
    with pytest.raises(UserError, match=r"^fsdp_activation_checkpointing: true"):
        check_processes({})
    launched(FSDP_VERSION="2", FSDP_SHARDING_STRATEGY="HYBRID_SHARD")  # accelerate reads it with version 1 alone
    check_processes({})


@pytest.mark.parametrize(
    ("strategy", "resharded"), [("FULL_SHARD", "true"), ("1", "true"), ("shard_grad_op", "false"), ("2", "false")]
)
def test_fsdp2_replaces_fsdp1(
    launched: Callable[..., None], capsys: pytest.CaptureFixture[str], strategy: str, resharded: str
) -> None:
    launched(FSDP_SHARDING_STRATEGY=strategy)
    check_processes({})
    prepare_fsdp(*arguments())
    assert os.environ["FSDP_RESHARD_AFTER_FORWARD"] == resharded
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, resharded == "true")
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert capsys.readouterr().err.startswith("realign-plugin: FSDP version 2 is used instead of version 1")
    prepare_fsdp(*arguments())
    assert capsys.readouterr().err == ""


def arguments(**given: Any) -> tuple[SimpleNamespace, SimpleNamespace, SimpleNamespace]:
    """The host's arguments of a model, a training and a fine-tuning type."""
    training = {"bf16": False, "fp16": False, "mixed_precision": "no"}
    chosen = {"quantization_bit": None, "use_unsloth_gc": False, "pure_bf16": False} | training | given
    return tuple(SimpleNamespace(**chosen) for _ in range(3))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("launch", "given", "bf16", "accelerates"),
    [
        ("bf16", {}, True, "no"),
        ("bf16", {"pure_bf16": True}, False, "no"),
        ("no", {"bf16": True}, True, "no"),
        ("fp16", {"bf16": True}, True, "no"),
        ("no", {}, False, "no"),
        ("fp16", {}, False, "fp16"),
        ("no", {"fp16": True}, False, "no"),
    ],
)
def test_with_fsdp_accelerate_does_not_change_the_precision(
    launched: Callable[..., None], launch: str, given: dict[str, Any], bf16: bool, accelerates: str
) -> None:
    launched(FSDP_VERSION="2", ACCELERATE_MIXED_PRECISION=launch)
    groups = arguments(**given)
    prepare_fsdp(*groups)
    assert groups[1].bf16 is bf16
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == accelerates


def test_a_4_bit_base_needs_bf16(launched: Callable[..., None]) -> None:
    launched(FSDP_VERSION="2", ACCELERATE_MIXED_PRECISION="fp16")
    with pytest.raises(UserError, match=r"^quantization_bit: 4 with fp16 and FSDP, .* expected bf16; set bf16: true"):
        prepare_fsdp(*arguments(quantization_bit=4))


def test_fsdp_needs_checkpointing_that_is_not_reentrant(launched: Callable[..., None]) -> None:
    launched(FSDP_VERSION="2")
    with pytest.raises(UserError, match=r"^use_unsloth_gc: true with FSDP, .* expected false; leave it out"):
        prepare_fsdp(*arguments(use_unsloth_gc=True))


def test_computations_in_bf16_leave_parameters_alone() -> None:
    model = torch.nn.Linear(4, 4)
    compute_in_bf16(model, "cpu")
    output = model(torch.ones(1, 4))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float32


def test_flags_and_files_are_checked_alike(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(json.dumps(zero(3)))
    options = training_options(lab, tmp_path / "run", mask_keep_weight=0.1, deepspeed=str(tmp_path / "zero.json"))
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(options))
    flags = [word for key, value in options.items() if key != "task_adapters" for word in (f"--{key}", str(value))]
    for argv in ([str(file)], [*flags, "--task_adapters", str(lab / "task1")]):
        with pytest.raises(UserError, match=r"mask_keep_weight: 0\.1 has no gradient"):
            command_line.check_command(argv)


@pytest.mark.parametrize("given", [{}, {"FORCE_TORCHRUN": "1"}, {"USE_RAY": "1"}])
def test_what_starts_processes(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_TORCHRUN", "USE_MCA", "USE_MEGATRON_BRIDGE", "USE_RAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launched_by() == {"FORCE_TORCHRUN": "torchrun", "USE_RAY": "ray"}.get(next(iter(given), ""))


def test_a_path_that_torchruns_command_would_split(lab: Path, tmp_path: Path) -> None:
    options = training_options(lab, tmp_path / "run")
    file = tmp_path / "my runs" / "x.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(options))
    command_line.check_command([str(file)])
    with pytest.raises(UserError, match=r"my runs/x\.yaml': has white space"):
        command_line.check_command([str(file)], by_torchrun=True)
    stock = {"stage": "sft", "finetuning_type": "lora", "aligned_adapter": None, "task_adapters": None}
    file.write_text(yaml.safe_dump(options | stock))
    command_line.check_command([str(file)], by_torchrun=True)  # not ours


def test_a_run_is_refused_before_a_model_is_loaded(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: Callable[..., None]
) -> None:
    launched(FSDP_SHARDING_STRATEGY="NO_SHARD")
    monkeypatch.setattr("llamafactory.train.tuner.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r"^fsdp_sharding_strategy: NO_SHARD"):
        run_exp(training_options(lab, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("others", "skipped"), [(1.0, True), (0.0, False)])
def test_sharded_processes_skip_the_reference_together(others: float, skipped: bool) -> None:
    trainer = MaskDPOTrainer.__new__(MaskDPOTrainer)
    trainer.args = SimpleNamespace(world_size=2, ddp_broadcast_buffers=False)
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
    trainer.args.ddp_broadcast_buffers = True  # then each forward pass is all processes'
    assert trainer._all(True) is skipped
    assert len(votes) == 3


@pytest.mark.parametrize(("others", "some"), [(1.0, True), (0.0, False)])
def test_sharded_processes_run_a_teacher_that_one_of_them_needs(others: float, some: bool) -> None:
    trainer = SafetyDistillTrainer.__new__(SafetyDistillTrainer)
    trainer.args = SimpleNamespace(world_size=2)
    trainer.accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP, device=torch.device("cpu"), reduce=lambda vote: vote + others
    )
    assert trainer._any(False) is some
    assert trainer._any(True) is True
