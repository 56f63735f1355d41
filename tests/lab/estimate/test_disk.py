from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace
from realign_plugin.lab.estimate import disk
from realign_plugin.lab.estimate.training import Training, read_training
from tests.conftest import make_lora


def training(lab: Path, **changes: Any) -> Training:
    options = {
        "model_name_or_path": str(lab / "base"),
        "stage": "mask_dpo",
        "finetuning_type": "safety_subspace",
        "task_adapters": [str(lab / "task1"), str(lab / "task2")],
        "aligned_adapter": str(lab / "aligned"),
    }
    return read_training("x", {k: v for k, v in (options | changes).items() if v is not None})


def test_files_of_a_subspace_to_the_byte(lab: Path, tmp_path: Path) -> None:
    for number, (fusion, granularity) in enumerate(
        [("task_arithmetic", "element"), ("ties", "row"), ("average", "column")]
    ):
        made = SafetySubspace.from_adapters(
            lab / "aligned", [lab / "task1", lab / "task2"], fusion_method=fusion, mask_granularity=granularity
        )
        made.save(tmp_path / str(number))
        made.to_lora(tmp_path / f"lora{number}", dtype=torch.bfloat16)
        found = training(lab, fusion_method=fusion, mask_granularity=granularity)
        assert disk.adapter_bytes(found) == size(tmp_path / str(number))
        assert disk.export_bytes(found, torch.bfloat16) == size(tmp_path / f"lora{number}")


def size(folder: Path) -> int:
    return (folder / "adapter_model.safetensors").stat().st_size


def test_a_bf16_adapter_keeps_its_dtype(lab: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_lora(lab / "base", tmp_path / "l")
    file = folder / "adapter_model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    found = training(lab, task_adapters=[str(folder)], aligned_adapter=None)
    assert found.vector_dtype == torch.bfloat16
    SafetySubspace.from_adapters(None, [folder]).save(tmp_path / "s")
    assert disk.adapter_bytes(found) == size(tmp_path / "s")


def test_files_of_whole_weights(lab: Path, models: list[Path], tmp_path: Path) -> None:
    SafetySubspace.from_models(lab / "base", models[:1]).save(tmp_path / "s")
    found = training(lab, task_adapters=None, aligned_adapter=None, task_models=[str(models[0])])
    assert disk.adapter_bytes(found) == size(tmp_path / "s")
    assert disk.export_bytes(found) is None


def test_a_whole_model(lab: Path) -> None:
    assert disk.model_bytes(training(lab)) == (lab / "base" / "model.safetensors").stat().st_size


def test_an_optimiser(lab: Path, tmp_path: Path) -> None:
    found = training(lab)
    parameters = [torch.nn.Parameter(torch.zeros(s)) for pair in found.shapes.values() for s in pair.values()]
    optimiser = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "optimizer.pt")
    assert disk.optimiser_bytes(found) == pytest.approx((tmp_path / "optimizer.pt").stat().st_size, abs=2048)
    assert disk.optimiser_bytes(training(lab, optim="sgd")) < disk.optimiser_bytes(found)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_steps": 300, "save_steps": 100}, 3),
        ({"max_steps": 300, "save_steps": 100, "save_total_limit": 1}, 1),
        ({"max_steps": 10, "save_steps": 100}, 1),
        ({"max_steps": 1000, "save_steps": 0.1}, 10),
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "epoch", "num_train_epochs": 2}, 2),
        ({"num_train_epochs": 2}, None),
        ({"num_train_epochs": 2, "save_total_limit": 2}, 2),
    ],
)
def test_how_many_checkpoints_are_kept(lab: Path, options: dict[str, Any], kept: int | None) -> None:
    found = training(lab, **options)
    assert found.saves == kept
    more = 1 if kept is None else kept
    assert disk.folder_bytes(found) - disk.final_bytes(found) == more * disk.checkpoint_bytes(found)
