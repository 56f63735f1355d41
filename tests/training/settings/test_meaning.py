"""Options of ours that would be ignored are refused; of the host's, a line says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamafactory.train.tuner import export_model, run_exp

from realign_plugin import UserError
from realign_plugin.training.settings import command_line
from realign_plugin.training.settings.meaning import check_meaning
from tests.conftest import training_options

PAIRS = {"stage": "mask_dpo", "finetuning_type": "safety_subspace", "task_adapters": ["t"], "aligned_adapter": "a"}
MASKS = PAIRS | {"stage": "safety_distill", "skill_dataset": "s"}
LORA = MASKS | {"finetuning_type": "lora"}
STOCK = {"stage": "sft", "finetuning_type": "lora", "do_train": True}
LOADED = {"adapter_name_or_path": "x", "finetuning_type": "safety_subspace"}


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (PAIRS, {"skill_dataset": "nosuch"}, "skill_dataset: 'nosuch', expected none, since with stage: mask_dpo and"),
        (PAIRS, {"distill_temperature": 2.0}, "distill_temperature: 2.0, expected none, .* there are no teachers"),
        (PAIRS | {"pref_loss": "simpo"}, {"mask_reference": "aligned"}, "pref_loss: simpo has no reference"),
        (MASKS, {"mask_reference": "base"}, "mask_reference: 'base', expected none, .* but the two teachers"),
        (LORA, {"mask_keep_weight": 3.0}, "mask_keep_weight: 3.0, expected none, .* there is no mask; leave it out"),
        (LORA, {"mask_rescale": False}, "mask_rescale: False, expected none"),
        (LORA, {"mask": "binary"}, "mask: 'binary', expected none"),
        (MASKS, {"ties_density": 0.4}, "ties_density: 0.4, .* fusion_method is task_arithmetic, not ties"),
        (MASKS | {"fusion_method": "ties"}, {"fusion_seed": 1}, "fusion_seed: 1, .* fusion_method is ties, not dare"),
        (STOCK, {"aligned_adapter": "a"}, "aligned_adapter: 'a', expected none, since only stage: mask_dpo and"),
        (STOCK, {"task_adapters": "a,b"}, "task_adapters: 'a,b', expected none"),
        (STOCK | {"adapter_name_or_path": "x"}, {"mask": "binary"}, "mask: 'binary', .* a mask is chosen where"),
        (LOADED, {"task_weight": 0.5}, "task_weight: 0.5, expected none"),
        ({}, {"mask": "soft"}, "mask: 'soft', .* a mask is chosen where"),
    ],
)
def test_options_without_meaning(given: dict[str, Any], more: dict[str, Any], message: str) -> None:
    check_meaning(given)
    with pytest.raises(UserError, match=message):
        check_meaning(given | more)


@pytest.mark.parametrize(
    "given",
    [
        PAIRS | {"mask_reference": "base", "mask_keep_weight": 1.0, "lora_target": "all", "fusion_method": "ties"},
        LORA | {"fusion_method": "dare", "fusion_seed": 3, "dare_drop_rate": 0.1, "distill_first_weight": 2.0},
        PAIRS | {"adapter_name_or_path": "x", "task_adapters": None, "aligned_adapter": "", "ties_density": 0.2},
        LOADED | {"mask": "binary", "mask_threshold": 0.5, "mask_seed": None},
    ],
)
def test_options_with_meaning(given: dict[str, Any]) -> None:
    check_meaning(given)


def test_a_stock_training_of_our_adapters(lab: Path, tmp_path: Path) -> None:
    options = training_options(lab, tmp_path / "run", stage="dpo", finetuning_type="lora", task_adapters=None)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for start in (lambda: command_line.check_command(words), lambda: run_exp(options)):
        with pytest.raises(UserError, match=r"aligned_adapter: .* since only stage: mask_dpo and"):
            start()
    assert not (tmp_path / "run").exists()


def test_an_export_of_our_adapters(lab: Path, tmp_path: Path) -> None:
    options = {"model_name_or_path": str(lab / "base"), "export_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"task_adapters: .* since only stage: mask_dpo and"):
        export_model(options | {"task_adapters": str(lab / "task1"), "stage": "safety_distill"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"lora_target": "q_proj", "lora_rank": 4, "do_predict": True, "val_size": 0.25, "ref_model_adapters": "x"},
            [
                "lora_rank, lora_target are not used: the adapters' own are masked",
                "ref_model_adapters is not used: there is no ref_model",
                "do_predict is not used: pairs are evaluated, not answered",
            ],
        ),
        (
            {"stage": "safety_distill", "finetuning_type": "lora", "dataset": "safety,skill", "skill_dataset": "skill",
             "create_new_adapter": True, "lora_dropout": 0.0, "pref_ftx": 1.0, "label_smoothing_factor": 0.1},
            [
                "create_new_adapter is not used: the fine-tuned adapter itself is trained further",
                "pref_ftx is not used: the loss is the divergence from the teachers",
                "label_smoothing_factor is not used: the loss is the divergence from the teachers",
            ],
        ),
        ({"lora_dropout": 0.0, "create_new_adapter": False}, []),
    ],
)  # fmt: skip
def test_the_hosts_options_are_named(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], lines: list[str]
) -> None:
    from llamafactory.hparams import parser

    parser._parse_train_args(training_options(lab, tmp_path / "run", **changes))
    said = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert said == [f"realign-plugin: {line}" for line in lines]


def test_lora_target_is_used_where_weights_are_whole(
    lab: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llamafactory.hparams import parser

    given = {"aligned_adapter": None, "task_adapters": None, "task_models": [str(models[0])]}
    parser._parse_train_args(training_options(lab, tmp_path / "run", lora_target="q_proj", **given))
    assert "not used" not in capsys.readouterr().err
