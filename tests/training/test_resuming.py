"""A run that has no step left: killed after its last checkpoint, or finished and started again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.hparams import get_train_args
from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file

from realign_plugin import UserError
from realign_plugin.files import sha256
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


SFT = {"stage": "sft", "finetuning_type": "lora", "dataset": "skill", "aligned_adapter": None, "task_adapters": None}
DISTILLED = {"stage": "safety_distill", "dataset": "safety,skill", "skill_dataset": "skill"}
GOES_ON = {"aligned_adapter": None, "task_adapters": None}


@pytest.fixture(scope="module")
def stopped(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of runs with a checkpoint of step 2, by kind."""
    root = tmp_path_factory.mktemp("stopped")
    for name, changes in {"masks": {}, "lora": DISTILLED | {"finetuning_type": "lora"}, "sft": SFT}.items():
        run_exp(training_options(lab, root / name, **(OPTIONS | {"max_steps": 2} | changes)))
    shutil.copytree(root / "masks", root / "trained")
    return {folder.name: folder for folder in root.iterdir()}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "masks",
            {"task_adapters": "TASK2"},
            "the sources aligned (sha256 AAAA…), task1 (sha256 1111…), expected the",
        ),
        ("masks", {"aligned_adapter": None}, "the sources aligned (sha256 AAAA…), task1 (sha256 1111…), expected the"),
        ("masks", {"task_weight": 0.5}, "task_weight: [1.0], expected task_weight: [0.5]"),
        ("masks", {"fusion_method": "ties"}, "fusion_method: 'task_arithmetic', expected fusion_method: 'ties'"),
        ("masks", {"mask_granularity": "row"}, "mask_granularity: 'element', expected mask_granularity: 'row'"),
        ("masks", DISTILLED, "stage: mask_dpo, expected stage: safety_distill"),
        (
            "masks",
            GOES_ON | {"adapter_name_or_path": "TRAINED"},
            "adapter_name_or_path: None, expected adapter_name_or_",
        ),
        ("lora", DISTILLED, "finetuning_type: lora, expected finetuning_type: safety_subspace"),
        ("sft", {}, "does not say which training it is of"),
    ],
)
def test_another_trainings_checkpoint_is_refused(
    lab: Path, stopped: dict[str, Path], kind: str, changes: dict[str, Any], message: str
) -> None:
    """Before a model is loaded; nothing is renamed."""
    places = {"TASK2": [str(lab / "task2")], "TRAINED": str(stopped["trained"])}
    changes = {name: places.get(str(value), value) for name, value in changes.items()}
    for mark, name in (("AAAA", "aligned"), ("1111", "task1")):
        message = message.replace(mark, sha256(lab / name / "adapter_model.safetensors")[:8])
    checkpoint = stopped[kind] / "checkpoint-2"
    options = training_options(lab, stopped[kind], **(OPTIONS | {"learning_rate": 0.1} | changes))
    with pytest.raises(UserError, match=f"resume_from_checkpoint: {checkpoint} .*{re.escape(message)}.*overwrite_out"):
        get_train_args(options)
    assert checkpoint.is_dir()
    with pytest.raises(
        UserError, match=f"resume_from_checkpoint: {checkpoint} .*; give one of this training, or none"
    ):
        get_train_args(options | {"output_dir": f"{stopped[kind]}2", "resume_from_checkpoint": str(checkpoint)})


def test_what_a_run_can_change_when_it_goes_on(lab: Path, stopped: dict[str, Path], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(lab / "task1", tmp_path / "moved"))
    changes = {"task_adapters": [str(moved)], "learning_rate": 0.2, "mask_temperature": 0.7, "seed": 3}
    args = get_train_args(training_options(lab, stopped["masks"], **(OPTIONS | changes)))[2]
    assert args.resume_from_checkpoint == str(stopped["masks"] / "checkpoint-2")
    assert get_train_args(training_options(lab, stopped["sft"], overwrite_output_dir=True))[2].output_dir


def test_a_full_fine_tunings_checkpoint_is_refused_and_not_renamed(lab: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-5"
    shutil.copytree(lab / "base", checkpoint)
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(UserError, match="checkpoint-5 does not say which training it is of"):
        get_train_args(training_options(lab, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_an_overwriting_run_that_is_stopped_is_not_taken_for_the_one_before(
    lab: Path, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"val_size": 0.25, "do_eval": True, "max_steps": 6}
    run_exp(training_options(lab, tmp_path, **options))
    before = contents(tmp_path)
    options |= {"learning_rate": 0.5, "max_steps": 4}
    with monkeypatch.context() as patch:
        patch.setattr(MaskDPOTrainer, "evaluate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # its adapter is saved
            run_exp(training_options(lab, tmp_path, overwrite_output_dir=True, **options))
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert len(list(tmp_path.glob("earlier-checkpoint-*"))) == 3
    assert not (tmp_path / "eval_results.json").exists()
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "trainer_state.json").unlink()  # as if killed after step 3
    steps.clear()
    run_exp(training_options(lab, tmp_path, **options))
    assert len(steps) == 2
    after = contents(tmp_path)
    assert all(before[name] != after[name] for name in ("adapter_model.safetensors", "eval_results.json"))


def test_a_run_from_a_checkpoint_elsewhere_is_not_the_one_in_its_folder(
    lab: Path, stopped: dict[str, Path], tmp_path: Path, steps: list[int]
) -> None:
    run_exp(training_options(lab, tmp_path, **OPTIONS))
    steps.clear()
    resumed = {"resume_from_checkpoint": str(stopped["masks"] / "checkpoint-2"), "overwrite_output_dir": True}
    run_exp(training_options(lab, tmp_path, **OPTIONS, **resumed))
    assert len(steps) == 2


def test_a_checkpoint_without_the_optimisers_state_is_refused(lab: Path, tmp_path: Path, steps: list[int]) -> None:
    options = OPTIONS | {"save_only_model": True}
    run_exp(training_options(lab, tmp_path, **options))
    steps.clear()
    run_exp(training_options(lab, tmp_path, **options))  # nothing is left to train
    with pytest.raises(UserError, match="the checkpoint of step 4 holds no state of the optimiser"):
        run_exp(training_options(lab, tmp_path, **(options | {"max_steps": 6})))
    assert not steps
