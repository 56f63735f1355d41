"""TRL's stock ``DPOTrainer`` with the arguments of ``mask_dpo``."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from llamafactory.train.tuner import run_exp  # first: it makes TRL 0.24 importable with transformers 5
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from realign_plugin import SafetySubspace, UserError, attach_subspace
from realign_plugin.trl import mask_dpo
from realign_plugin.trl.dpo import MaskLog, Reference
from tests.conftest import training_options

EXAMPLE = Path(__file__).parents[2] / "examples" / "trl" / "mask_dpo.py"


@pytest.fixture(autouse=True)
def old_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL before 0.26 notes warnings in an attribute that models of transformers 5 no longer have."""
    monkeypatch.setattr(transformers.PreTrainedModel, "warnings_issued", {}, raising=False)


@pytest.fixture
def pairs(lab: Path, tmp_path: Path) -> Path:
    """The preference pairs under TRL's names."""
    rows = json.loads((lab / "pairs.json").read_text())
    file = tmp_path / "pairs.json"
    named = [{"prompt": row["instruction"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows]
    file.write_text(json.dumps(named))
    return file


def history(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "trainer_state.json").read_text())["log_history"])


def trainer_of(
    lab: Path, pairs: Path, subspace: SafetySubspace, args: DPOConfig, reference: Any = "init"
) -> DPOTrainer:
    """TRL's trainer of a subspace on the pico base model."""
    from datasets import load_dataset

    return DPOTrainer(
        **mask_dpo(AutoModelForCausalLM.from_pretrained(lab / "base"), subspace, args, reference),
        train_dataset=load_dataset("json", data_files=str(pairs), split="train"),
        processing_class=AutoTokenizer.from_pretrained(lab / "base"),
    )


def config(out: Path, **settings: Any) -> DPOConfig:
    return DPOConfig(str(out), learning_rate=0.1, use_cpu=True, bf16=False, report_to="none", **settings)


def first_step(lab: Path, pairs: Path, out: Path, reference: Any, **options: Any) -> dict[str, Any]:
    """What is logged of one step whose policy is the fine-tuned model itself."""
    subspace = SafetySubspace.from_adapters(
        lab / "aligned", [lab / "task1"], mask_init=30.0, mask_noise=0.0, mask_estimator="straight_through", **options
    )
    trainer = trainer_of(lab, pairs, subspace, config(out, max_steps=1, logging_steps=1), reference)
    trainer.train()
    return dict(trainer.state.log_history[0])


def test_the_example_learns_and_leaves_what_llamafactory_leaves(
    lab: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [str(lab / name) for name in ("base", "aligned", "task1")]
    words = [*sources, str(pairs), str(tmp_path / "trl"), "--steps", "30", "--batch-size", "8", "--use-cpu"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    steps = [entry for entry in history(tmp_path / "trl") if "loss" in entry]
    assert steps[-1]["loss"] < 0.75 * steps[0]["loss"]
    assert {"mask/mean", "mask/share_above_half", "mask/entropy", "rewards/accuracies"} <= steps[0].keys()
    assert SafetySubspace.load(tmp_path / "trl").logits
    options = {"mask_estimator": "straight_through", "mask_noise_end": 0.0}
    run_exp(training_options(lab, tmp_path / "host", max_steps=1, **options))
    ours, theirs = (json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("trl", "host"))
    assert ours == theirs
    one, two = (SafetySubspace.load(tmp_path / name).state_dict() for name in ("trl", "host"))
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {n: (t.shape, t.dtype) for n, t in two.items()}
    assert all(torch.equal(one[name], two[name]) for name in one if "logits" not in name)
    assert json.loads((tmp_path / "trl" / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_rewards_are_measured_from_the_reference_that_was_asked_for(lab: Path, pairs: Path, tmp_path: Path) -> None:
    assert first_step(lab, pairs, tmp_path, "init")["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)
    aligned, base = (first_step(lab, pairs, tmp_path, kind)["rewards/chosen"] for kind in ("aligned", "base"))
    assert abs(aligned) > 1e-4
    assert abs(base - aligned) > 1e-4


def test_the_reference_is_fixed_and_leaves_the_policy_as_it_was(subspace: Any, base_model: Any, tokens: Any) -> None:
    model = attach_subspace(base_model, subspace).train()
    reference = Reference(model, "aligned")
    assert not list(reference.parameters())
    reference.forward = None  # type: ignore[method-assign, assignment]  # TRL 1.x replaces it
    first, second = reference(input_ids=tokens).logits, reference(input_ids=tokens).logits
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training
    assert not torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_logits_that_trl_rounded_to_bf16_are_fp32_again(subspace: Any, base_model: Any) -> None:
    model = attach_subspace(base_model, subspace)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.bfloat16()
    MaskLog().on_train_begin(None, None, None, model=model)
    assert trained
    assert all(parameter.dtype == torch.float32 for parameter in trained)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs: True with mask_dpo, expected none"),
        ({"sync_ref_model": True}, "sync_ref_model: True"),
        ({"generate_during_eval": True}, "generate_during_eval: True"),
    ],
)
def test_settings_that_would_go_wrong_are_refused(
    subspace: Any, base_model: Any, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **settings)
    with pytest.raises(UserError, match=words):
        mask_dpo(base_model, subspace, args)


def test_what_trl_cannot_do_is_refused(
    lab: Path, base_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    subspace = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"], mask_keep_weight=0.5)
    with pytest.raises(UserError, match=r"mask_keep_weight: 0\.5 is not part of TRL's loss"):
        mask_dpo(base_model, subspace, args)
    subspace.spec.mask_keep_weight, subspace.spec.task_weights = 0.0, [0.0]
    with pytest.raises(UserError, match=r"task_weight: \[0\.0\] leaves nothing to mask"):
        mask_dpo(base_model, subspace, args)
    subspace.spec.task_weights = [1.0]
    subspace.spec.base_sha256 = {"weights": "0" * 64}
    with pytest.raises(UserError, match=r"model: .*base is not the model that the subspace was trained on"):
        mask_dpo(base_model, subspace, args)
    subspace.spec.base_sha256 = {}
    with pytest.raises(UserError, match="reference: 'model' is unknown, expected one of init"):
        mask_dpo(base_model, subspace, args, "model")  # type: ignore[arg-type]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_FSDP: true with mask_dpo"):
        mask_dpo(base_model, subspace, args)


def test_another_trainings_checkpoint_is_refused(lab: Path, pairs: Path, tmp_path: Path) -> None:
    subspaces = [SafetySubspace.from_adapters(lab / "aligned", [lab / name]) for name in ("task1", "task1", "task2")]
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    trainer_of(lab, pairs, subspaces[0], config(tmp_path, max_steps=1, **settings)).train()
    resumed = trainer_of(lab, pairs, subspaces[1], config(tmp_path, max_steps=2, **settings))
    assert resumed.train(resume_from_checkpoint=True).global_step == 2
    other = trainer_of(lab, pairs, subspaces[2], config(tmp_path, max_steps=3, **settings))
    with pytest.raises(UserError, match=r"the checkpoint of step 2 is of a training with the sources .*, task1 \("):
        other.train(resume_from_checkpoint=True)


def test_a_checkpoint_without_the_optimisers_state_is_refused(lab: Path, pairs: Path, tmp_path: Path) -> None:
    subspaces = [SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"]) for _ in range(2)]
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    trainer_of(lab, pairs, subspaces[0], config(tmp_path, max_steps=1, **settings)).train()
    resumed = trainer_of(lab, pairs, subspaces[1], config(tmp_path, max_steps=2, **settings))
    with pytest.raises(UserError, match="the checkpoint of step 1 holds no state of the optimiser"):
        resumed.train(resume_from_checkpoint=True)


def test_a_gradient_that_is_not_a_number_ends_the_run(subspace: Any, base_model: Any, tmp_path: Path) -> None:
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    state = transformers.TrainerState(global_step=7, log_history=[{}])
    with pytest.raises(UserError, match="grad_norm: nan by step 7"):
        MaskLog().on_log(args, state, None, {"loss": 0.0, "grad_norm": float("nan")})


@pytest.mark.parametrize("saves", [{"save_strategy": "no"}, {"save_steps": 2}])
def test_a_run_whose_logits_are_not_numbers_ends_before_it_saves(
    lab: Path, pairs: Path, tmp_path: Path, saves: dict[str, Any]
) -> None:
    subspace = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"])
    trainer = trainer_of(lab, pairs, subspace, config(tmp_path, max_steps=3, **saves))
    step = trainer.training_step

    def spoilt(model: Any, *args: Any) -> Any:
        loss = step(model, *args)
        next(p for p in model.parameters() if p.grad is not None).grad[0] = float("inf")  # type: ignore[index]
        return loss

    trainer.training_step = spoilt  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"holds NaN or infinite numbers by step [23], expected finite ones"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
