"""The stage on full checkpoints, through the stock entry point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import export_model, run_exp
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from tests.conftest import training_options


def options(lab: Path, out: Path, models: list[Path], **changes: Any) -> dict[str, Any]:
    sources = {"aligned_adapter": None, "task_adapters": None, "task_models": [str(m) for m in models]}
    return training_options(lab, out, **(sources | changes))


def losses(run: Path) -> list[float]:
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("fusion", ["task_arithmetic", "average", "ties", "dare"])
def test_every_fusion_trains(lab: Path, models: list[Path], tmp_path: Path, fusion: str) -> None:
    run_exp(options(lab, tmp_path, models[:2], fusion_method=fusion, max_steps=2, lora_target="q_proj,v_proj"))
    subspace = SafetySubspace.load(tmp_path)
    assert (subspace.spec.vector_space, subspace.spec.mask_granularity) == ("weight", "row")
    assert len(subspace.logits) == 4
    assert all(bool(pair["W"].any()) for pair in subspace.logits.values())
    assert set(subspace.spec.base_sha256) == {"architecture", "config", "weights", "weights_fp16"}


def test_the_loss_falls_and_a_resumed_run_is_an_unbroken_one(lab: Path, models: list[Path], tmp_path: Path) -> None:
    common = {"max_steps": 20, "learning_rate": 0.3, "save_strategy": "steps", "save_steps": 10}
    run_exp(options(lab, tmp_path / "whole", models[:1], **common))
    run_exp(options(lab, tmp_path / "broken", models[:1], **common))
    for leftover in [tmp_path / "broken" / "checkpoint-20" / "trainer_state.json", *(tmp_path / "broken").glob("*.*")]:
        leftover.unlink()
    run_exp(options(lab, tmp_path / "broken", models[:1], **common))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1] < 0.9 * losses(tmp_path / "whole")[0]


def test_layers_that_were_frozen_have_no_mask(lab: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    frozen = {"stage": "dpo", "finetuning_type": "freeze", "freeze_trainable_layers": 1, "learning_rate": 0.01}
    run_exp(options(lab, tuned, [], task_models=None, **frozen))  # fine-tuned by the host, the last layer alone
    run_exp(options(lab, tmp_path / "run", [tuned], max_steps=2))
    subspace = SafetySubspace.load(tmp_path / "run")
    assert len(subspace.logits) == 7
    assert all(name.startswith("model.layers.1.") for name in subspace.logits)
    assert all(bool(pair["W"].any()) for pair in subspace.logits.values())


def test_export_gives_the_weights_of_merge_and_unload(lab: Path, models: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_exp(options(lab, run, models[:2], mask_estimator="straight_through", task_weight=0.4))
    export_model(
        {
            "model_name_or_path": str(lab / "base"),
            "adapter_name_or_path": str(run),
            "export_dir": str(tmp_path / "merged"),
        }
    )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), run).merge_and_unload()
    exported = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(parameter, exported[name]) for name, parameter in model.named_parameters())


def test_element_masks_say_what_memory_they_need(
    lab: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_exp(options(lab, tmp_path, models[:1], mask_granularity="element", max_steps=1, lora_target="q_proj"))
    assert "element on whole weights trains 2,048 logits: 0.0 GiB for logits" in capsys.readouterr().err
    assert SafetySubspace.load(tmp_path).logits["model.layers.0.self_attn.q_proj"]["W"].shape == (32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_models": ["missing/model"]}, r"task_models\[0\]: 'missing/model' is not a folder and"),
        ({"task_models": "BASE"}, r"equals the base .* \(the task vector is 0\)"),
        ({"task_models": "ADAPTER"}, r"is an adapter, expected a full model; give it as task_adapters"),
        ({"aligned_adapter": "aligned"}, r"aligned_adapter: 'aligned' with task_models, expected none"),
        ({"task_weight": "0.1,0.2,0.3"}, r"has 3 numbers for 1 task models"),
        ({"lora_target": "x_proj"}, r"lora_target: x_proj names no linear module"),
    ],
)
def test_mistakes(lab: Path, models: list[Path], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    named = {"BASE": [str(lab / "base")], "ADAPTER": [str(lab / "task1")]}
    change = {k: named.get(v, v) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises(UserError, match=message) as caught:
        run_exp(options(lab, tmp_path / "run", models[:1], **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
