"""Options of LLaMA-Factory and other libraries that change how a layer, a gradient or a step is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp
from torch.utils._pytree import tree_leaves

from realign_plugin import SafetySubspace
from tests.conftest import make_lora, training_options
from tests.training.test_mask_dpo import losses


def test_unsloths_gradient_checkpointing_changes_nothing(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda t, *a, **k: t if a[:1] == ("cuda",) else stock(t, *a, **k))
    run_exp(training_options(lab, tmp_path / "on", max_steps=3, use_unsloth_gc=True))
    run_exp(training_options(lab, tmp_path / "off", max_steps=3, disable_gradient_checkpointing=True))
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=1e-6)


def test_8_bit_optimiser_states(lab: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    task = make_lora(lab / "base", tmp_path / "task", r=128)  # bitsandbytes leaves tensors below 4,096 elements alone
    options = {"optim": "adamw_bnb_8bit", "max_steps": 10, "save_strategy": "steps", "save_steps": 10}
    sources = {"aligned_adapter": None, "task_adapters": [str(task)]}
    run_exp(training_options(lab, tmp_path / "run", learning_rate=0.3, **options, **sources))
    state = torch.load(tmp_path / "run" / "checkpoint-10" / "optimizer.pt", weights_only=True)["state"]
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    assert torch.uint8 in {tensor.dtype for tensor in tensors if tensor.numel() >= 4096}
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


@pytest.mark.parametrize("stage", ["mask_dpo", "safety_distill"])
def test_liger_leaves_the_logits_alone(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    asked: list[bool] = []

    def apply(config: Any, model_args: Any, is_trainable: bool, require_logits: bool) -> None:
        asked.append(model_args.enable_liger_kernel and is_trainable and require_logits)

    monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *a, **k: None)
    monkeypatch.setattr("llamafactory.model.loader.apply_liger_kernel", apply)
    changes: dict[str, Any] = {"stage": stage, "enable_liger_kernel": True, "max_steps": 1}
    if stage == "safety_distill":
        changes |= {"dataset": "safety,skill", "skill_dataset": "skill"}
    run_exp(training_options(lab, tmp_path / "run", **changes))
    assert asked == [True]  # without logits there would be a fused loss and nothing to compare


def test_pure_bf16_keeps_fp32_logits_and_learns(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafactory.hparams.parser.is_torch_bf16_gpu_available", lambda: True)
    run_exp(training_options(lab, tmp_path, pure_bf16=True, max_steps=20, learning_rate=0.3))
    assert min(losses(tmp_path)[-3:]) < 0.9 * losses(tmp_path)[0]
    logits = [tensor for pair in SafetySubspace.load(tmp_path).logits.values() for tensor in pair.values()]
    assert {tensor.dtype for tensor in logits} == {torch.float32}
