"""LLaMA-Factory trains on text pairs what is not a plain Llama, and its chat merges the result."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.tuner import run_exp
from peft import PeftModel

from realign_plugin import SafetySubspace, UserError
from realign_plugin.training.settings.preflight import check_training
from realign_plugin.training.settings.sources import build_subspace
from tests.conftest import logits_of, make_tokenizer, training_options
from tests.training.test_mask_dpo import history
from tests.tuner.test_architectures import World, close


@pytest.mark.parametrize("rows", [1, 5])
def test_a_multimodal_model_is_distilled(lab: Path, tmp_path: Path, rows: int) -> None:
    world = World("a multimodal model", tmp_path)
    world.base().save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    changes = {"model_name_or_path": str(tmp_path / "base"), "aligned_adapter": str(tmp_path / "aligned")}
    changes |= {"stage": "safety_distill", "dataset": "safety,skill", "skill_dataset": "skill"}
    options = {"task_adapters": [str(tmp_path / "tuned")], "per_device_train_batch_size": rows, **changes}
    for kind in ("safety_subspace", "lora"):
        run_exp(training_options(lab, tmp_path / kind, finetuning_type=kind, max_steps=2, **options))
    first = next(entry for entry in history(tmp_path / "lora") if "loss" in entry)
    assert first.get("kl/fine_tuned", 0.0) <= 1e-6  # both see each row alone, however rows are padded
    assert first.get("kl/aligned", 1.0) > 1e-4


@pytest.mark.parametrize(
    ("case", "masked"), [("a multimodal model", "language_model"), ("experts in one tensor", "mlp.experts")]
)
def test_text_pairs_train_it(case: str, masked: str, lab: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    world = World(case, tmp_path)
    world.base().save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    sources = {"model_name_or_path": str(tmp_path / "base"), "aligned_adapter": str(tmp_path / "aligned")}
    options = {**sources, "task_adapters": [str(tmp_path / "tuned")], "max_steps": 2}
    run_exp(training_options(lab, tmp_path / "out", **options))
    trained = SafetySubspace.load(tmp_path / "out")
    assert all(masked in module for module in trained.logits)
    assert any(bool(pair["B"].any()) for pair in trained.logits.values())
    chosen = {"model_name_or_path": sources["model_name_or_path"], "adapter_name_or_path": str(tmp_path / "out")}
    model_args, _, finetuning_args, _ = get_infer_args({**chosen, "template": "default", "infer_dtype": "float32"})
    model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, finetuning_args)
    assert not isinstance(model, PeftModel)  # merged
    assert close(
        logits_of(model.eval(), tokens),
        logits_of(PeftModel.from_pretrained(world.base(), tmp_path / "out").eval(), tokens),
    )


@pytest.mark.parametrize(("case", "compiled"), [("experts and attention", True), ("experts in one tensor", False)])
def test_experts_alone_are_not_compiled(case: str, compiled: bool, tmp_path: Path) -> None:
    world = World(case, tmp_path)
    ours = {"stage": "mask_dpo", "finetuning_type": "safety_subspace", "mask_compile": True}
    built = ours | {"aligned_adapter": str(tmp_path / "aligned"), "task_adapters": [str(tmp_path / "tuned")]}
    trained = str(world.subspace().save(tmp_path / "trained"))
    message = r"^mask_compile: true with adapters of target_parameters alone \(model\.layers\.0\.mlp\.experts\), exp"
    with nullcontext() if compiled else pytest.raises(UserError, match=message):
        build_subspace(built)
    with nullcontext() if compiled else pytest.raises(UserError, match=message):
        check_training(ours, [trained])
    assert build_subspace(built | {"mask_compile": False}).spec.parameters
