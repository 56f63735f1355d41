"""The stage in-process, through the stock entry point ``run_exp``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace, UserError
from tests.conftest import make_lora, training_options
from tests.method.test_compiled import needs_compiler


def history(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "trainer_state.json").read_text())["log_history"])


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in history(run) if "loss" in entry]


def same_logits(one: Path, two: Path) -> bool:
    a, b = SafetySubspace.load(one).logits, SafetySubspace.load(two).logits
    return all(torch.equal(a[m][f], b[m][f]) for m in a for f in "AB")


def test_training_learns_and_leaves_a_loadable_subspace(lab: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_exp(training_options(lab, run, max_steps=30, learning_rate=0.3, plot_loss=True, per_device_train_batch_size=8))
    logged = [entry for entry in history(run) if "loss" in entry]
    assert logged[-1]["loss"] < 0.75 * logged[0]["loss"]
    assert {"mask/mean", "mask/share_above_half", "mask/entropy", "rewards/accuracies"} <= logged[0].keys()
    assert logged[0]["mask/entropy"] > 0.9
    subspace = SafetySubspace.load(run)
    assert any(bool(pair["A"].any()) for pair in subspace.logits.values())
    assert [s["name"] for s in subspace.spec.sources] == ["aligned", "task1"]
    assert (run / "training_loss.png").is_file()
    assert (run / "training_mask_mean.png").is_file()
    assert "safety_subspace" in (run / "README.md").read_text()


@pytest.mark.parametrize("estimator", ["relaxed", "straight_through"])
def test_resuming_gives_the_loss_of_an_unbroken_run(lab: Path, tmp_path: Path, estimator: str) -> None:
    options = {
        "max_steps": 6,
        "mask_estimator": estimator,
        "mask_noise_end": 0.0,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    run_exp(training_options(lab, tmp_path / "whole", **options))
    run_exp(training_options(lab, tmp_path / "broken", **options))
    for leftover in [tmp_path / "broken" / "checkpoint-6" / "trainer_state.json", *(tmp_path / "broken").glob("*.*")]:
        leftover.unlink()  # as if killed while the last checkpoint was written
    run_exp(training_options(lab, tmp_path / "broken", **options))
    assert list((tmp_path / "broken").glob("incomplete-checkpoint-6-*"))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert same_logits(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize("pref_loss", ["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"])
def test_all_losses_of_stock_dpo(lab: Path, tmp_path: Path, pref_loss: str) -> None:
    run_exp(training_options(lab, tmp_path, pref_loss=pref_loss, max_steps=2))
    assert all(torch.isfinite(torch.tensor(losses(tmp_path))))
    assert any(bool(pair["B"].any()) for pair in SafetySubspace.load(tmp_path).logits.values())


def first_chosen_reward(lab: Path, run: Path, **changes: Any) -> float:
    """Mean reward of chosen answers at the first step with an all-ones mask: 0 where policy and reference agree."""
    run_exp(
        training_options(
            lab, run, mask_init=30.0, mask_noise=0.0, mask_estimator="straight_through", max_steps=1, **changes
        )
    )
    return float(history(run)[0]["rewards/chosen"])


def test_references_are_the_models_they_name(lab: Path, tmp_path: Path) -> None:
    # mask_init 30 without noise: the policy is the fine-tuned model itself.
    assert first_chosen_reward(lab, tmp_path / "init") == pytest.approx(0.0, abs=1e-5)
    tuned = {"ref_model": str(lab / "base"), "ref_model_adapters": str(lab / "task1"), "mask_reference": "model"}
    assert first_chosen_reward(lab, tmp_path / "model", **tuned) == pytest.approx(0.0, abs=1e-5)
    aligned = first_chosen_reward(lab, tmp_path / "aligned", mask_reference="aligned")
    stock = {"ref_model": str(lab / "base"), "ref_model_adapters": str(lab / "aligned"), "mask_reference": "model"}
    assert aligned == pytest.approx(first_chosen_reward(lab, tmp_path / "a", **stock), abs=1e-5)
    base = first_chosen_reward(lab, tmp_path / "base", mask_reference="base")
    stock = {"ref_model": str(lab / "base"), "mask_reference": "model"}
    assert base == pytest.approx(first_chosen_reward(lab, tmp_path / "b", **stock), abs=1e-5)
    assert abs(aligned) > 1e-4
    assert abs(base - aligned) > 1e-4


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(lab: Path, tmp_path: Path, reentrant: bool, compiled: bool) -> None:
    common = {"max_steps": 3, "use_reentrant_gc": reentrant, "mask_compile": compiled}
    run_exp(training_options(lab, tmp_path / "off", disable_gradient_checkpointing=True, **common))
    run_exp(training_options(lab, tmp_path / "on", **common))
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=1e-6)


@needs_compiler
def test_compiled_masks_train_the_same(lab: Path, tmp_path: Path) -> None:
    common = {"max_steps": 4, "mask_noise_end": 0.0, "learning_rate": 0.1}
    run_exp(training_options(lab, tmp_path / "plain", **common))
    run_exp(training_options(lab, tmp_path / "compiled", mask_compile=True, **common))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    one, two = (SafetySubspace.load(tmp_path / name).logits for name in ("plain", "compiled"))
    for module in one:
        for factor in "AB":  # Adam makes much of the rounding of the few gradients that are almost 0
            off = (one[module][factor] - two[module][factor]).abs() > 1e-3
            assert off.float().mean() < 0.02
            assert one[module][factor].abs().median() > 0.05


def test_several_tasks_and_fusions(lab: Path, tmp_path: Path) -> None:
    tasks = [str(lab / name) for name in ("task1", "task2", "task3")]
    for fusion in ("task_arithmetic", "average", "ties", "dare"):
        run = tmp_path / fusion
        run_exp(training_options(lab, run, task_adapters=tasks, fusion_method=fusion, max_steps=2, pref_ftx=0.5))
        subspace = SafetySubspace.load(run)
        assert subspace.spec.fusion_method == fusion
        assert len(subspace.deltas) == (3 if fusion == "ties" else 1)
        assert any(bool(pair["A"].any()) for pair in subspace.logits.values())


def test_without_an_aligned_adapter(lab: Path, tmp_path: Path) -> None:
    run_exp(training_options(lab, tmp_path, aligned_adapter=None, max_steps=2))
    assert SafetySubspace.load(tmp_path).aligned == {}


def test_evaluation_and_the_best_model(lab: Path, tmp_path: Path) -> None:
    run_exp(
        training_options(
            lab,
            tmp_path,
            max_steps=4,
            val_size=0.25,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            do_eval=True,
        )
    )
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    evaluated = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
    best = min((2, 4), key=lambda step: evaluated[step])
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    assert same_logits(tmp_path, tmp_path / f"checkpoint-{best}")
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(evaluated[best], rel=1e-5)
    assert "eval_mask/mean" in {key for e in state["log_history"] for key in e}


def test_evaluating_a_saved_subspace_alone(lab: Path, tmp_path: Path) -> None:
    run_exp(training_options(lab, tmp_path / "run"))
    run_exp(
        training_options(
            lab,
            tmp_path / "eval",
            do_train=False,
            do_eval=True,
            task_adapters=None,
            aligned_adapter=None,
            adapter_name_or_path=str(tmp_path / "run"),
            dataset=None,
            eval_dataset="pairs",
            max_steps=None,
        )
    )
    results = json.loads((tmp_path / "eval" / "eval_results.json").read_text())
    assert "eval_rewards/accuracies" in results


def test_the_keep_penalty_keeps_more(lab: Path, tmp_path: Path) -> None:
    for weight in (0.0, 50.0):
        run_exp(training_options(lab, tmp_path / f"{weight}", mask_keep_weight=weight, max_steps=5, learning_rate=0.1))
    means = [history(tmp_path / f"{weight}")[-2]["mask/mean"] for weight in (0.0, 50.0)]
    assert means[1] > means[0] + 0.02


def test_the_keep_penalty_is_no_part_of_the_evaluation(lab: Path, tmp_path: Path) -> None:
    asked = {"do_train": None, "dataset": None, "do_eval": True, "eval_dataset": "pairs", "max_samples": 4}
    for weight in (0.0, 50.0):
        run_exp(training_options(lab, tmp_path / f"{weight}", mask_keep_weight=weight, max_steps=None, **asked))
    found = [json.loads((tmp_path / f"{weight}" / "eval_results.json").read_text()) for weight in (0.0, 50.0)]
    assert found[0]["eval_loss"] == found[1]["eval_loss"]


def test_bf16_base_keeps_fp32_logits(lab: Path, tmp_path: Path) -> None:
    from tests.conftest import make_llama, make_tokenizer

    make_llama(tmp_path / "base", dtype=torch.bfloat16)
    make_tokenizer(tmp_path / "base")
    make_lora(tmp_path / "base", tmp_path / "task")
    run = tmp_path / "run"
    options = {"model_name_or_path": str(tmp_path / "base"), "aligned_adapter": None, "bf16": True}
    run_exp(training_options(lab, run, task_adapters=str(tmp_path / "task"), **options))
    assert {t.dtype for pair in SafetySubspace.load(run).logits.values() for t in pair.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "dpo"}, "stage: 'dpo' with finetuning_type: safety_subspace"),
        ({"finetuning_type": "lora"}, "finetuning_type: 'lora' with stage: mask_dpo"),
        ({"task_adapters": None}, "task_adapters is not set"),
        ({"task_adapters": "nowhere"}, r"task_adapters\[0\]: nowhere does not exist"),
        ({"use_dora": True}, "use_dora: True has no meaning"),
        ({"additional_target": "lm_head"}, "additional_target"),
        ({"mask_reference": "model"}, "needs ref_model"),
        ({"ref_model": "x"}, "ref_model: 'x' is not used with mask_reference: init"),
        ({"packing": True}, "packing: True with stage: mask_dpo, expected none, since LLaMA-Factory packs no pairs"),
        ({"neat_packing": True}, "packing: True with stage: mask_dpo, expected none"),
        ({"output_dir": "LAB/task1", "overwrite_output_dir": True}, r"is an input of this command \(.*/task1\)"),
        ({"output_dir": "LAB/base", "overwrite_output_dir": True}, r"is an input of this command \(.*/base\)"),
        ({"output_dir": "LAB/pairs.json"}, "pairs.json: is a file, expected a folder to write to"),
        ({"output_dir": "LAB/" + "x" * 256}, r"cannot be written \(File name too long\)"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("llamafactory.train.tuner.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    if "output_dir" in changes:
        changes = changes | {"output_dir": changes["output_dir"].replace("LAB", str(lab))}
    with pytest.raises(UserError, match=message):
        run_exp(training_options(lab, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    save, calls = peft.peft_model.safe_save_file, []

    def full_at_the_second(*args: Any, **kwargs: Any) -> None:
        calls.append(args[1])
        if len(calls) == 2:
            Path(args[1]).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(peft.peft_model, "safe_save_file", full_at_the_second)
    options = training_options(lab, tmp_path / "run", save_strategy="steps", save_steps=2)
    with pytest.raises(UserError, match=r"checkpoint-4: cannot be written \(No space left"):
        run_exp(options)
    monkeypatch.undo()
    SafetySubspace.load(tmp_path / "run" / "checkpoint-2")
    assert not (tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors").exists()
    run_exp(options)
    assert SafetySubspace.load(tmp_path / "run")


def test_stock_dpo_is_untouched(lab: Path, tmp_path: Path) -> None:
    options = training_options(
        lab, tmp_path, stage="dpo", finetuning_type="lora", aligned_adapter=None, task_adapters=None, max_steps=2
    )
    run_exp(options | {"adapter_name_or_path": str(lab / "task1")})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
