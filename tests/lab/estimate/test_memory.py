from __future__ import annotations

from typing import Any

import pytest
import torch

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate.memory import alone, per_process
from realign_plugin.lab.estimate.parameters import by_module, lora_baseline
from realign_plugin.lab.estimate.step import CAST, GRADIENTS, LATER, MASKS, REFERENCE, STEP, VOCABULARY, step_memory
from realign_plugin.lab.estimate.tracking import LiveMemory
from realign_plugin.lab.estimate.training import Training, read_training

FACTOR_NUMBERS = 3 * (4 * 32 + 32 * 4 + 4 * 32 + 16 * 4)  # three layers; q_proj [32, 32], v_proj [16, 32]; rank 4


def training(options: dict[str, Any], **changes: Any) -> Training:
    return read_training("x", options | changes)


def test_what_is_trained(options: dict[str, Any]) -> None:
    found = training(options)
    assert found.elements == found.logits == FACTOR_NUMBERS
    assert training(options, mask_granularity="row").logits == 3 * (4 + 32 + 4 + 16)
    assert training(options, mask_granularity="column").logits == 3 * (32 + 4 + 32 + 4)
    assert training(options, mask_granularity="module", mask_rescale=False).logits == 3 * 4
    assert sum(row["logits"] for row in by_module(found)) == FACTOR_NUMBERS
    assert by_module(found)[0] | {"elements": 0, "logits": 0} == {
        "target": "q_proj", "modules": 3, "weight": [32, 32], "rank": 4, "elements": 0, "logits": 0
    }  # fmt: skip
    assert found.length == 64  # padded to a multiple of 8
    assert found.rows == 4  # chosen and rejected


def test_what_is_kept(options: dict[str, Any]) -> None:
    found = training(options, aligned_adapter="elsewhere")
    parts = alone(found).parts
    assert parts["base weights"] >= 2 * found.model.parameters
    assert parts["mask logits"] == parts["aligned factors"] == parts["task vectors"] == 4 * FACTOR_NUMBERS
    assert parts["optimiser states"] == 8 * FACTOR_NUMBERS
    assert "aligned factors" not in alone(training(options)).parts


def test_linear_fusions_keep_one_task_vector_and_ties_all(options: dict[str, Any]) -> None:
    three = ["a", "b", "c"]
    for method, kept in (("task_arithmetic", 1), ("dare", 1), ("average", 1), ("ties", 3)):
        parts = alone(training(options, task_adapters=three, fusion_method=method)).parts
        assert parts["task vectors"] == kept * 4 * FACTOR_NUMBERS


def test_whole_weights(options: dict[str, Any]) -> None:
    changes = {"task_adapters": None, "task_models": ["other"], "lora_target": "all", "mask_granularity": "element"}
    found = training(options, **changes)
    weights = sum(rows * columns for rows, columns in found.model.inner.values())
    assert found.logits == weights
    assert alone(found).parts["task vectors"] == 2 * weights  # in the checkpoint's bf16
    assert alone(found).parts["optimiser states"] == 8 * weights


def test_a_quantised_base(options: dict[str, Any]) -> None:
    whole, four = alone(training(options)).parts, alone(training(options, quantization_bit=4)).parts
    inner = sum(rows * columns for rows, columns in training(options).model.inner.values())
    saved = whole["base weights"] - four["base weights"]
    assert saved == pytest.approx(inner * (16 - 4 - 8 / 64 - 32 / (64 * 256)) / 8, rel=0.01)
    assert four["one weight widened"] == 2 * 48 * 32


def test_plain_attention_keeps_every_heads_weights(options: dict[str, Any]) -> None:
    plain, parts = (
        alone(training(options, disable_gradient_checkpointing=True, flash_attn=how)).total
        for how in ("disabled", "auto")
    )
    found = training(options)
    weights = found.rows * found.model.config.num_attention_heads * found.length**2
    assert plain - parts >= found.model.config.num_hidden_layers * weights * 2  # bf16


def test_checkpointing_and_batches(options: dict[str, Any]) -> None:
    on, off = (alone(training(options, disable_gradient_checkpointing=value)) for value in (False, True))
    assert on.total < off.total
    assert off.parts["activations"] > 2 * on.parts["activations"]
    double = alone(training(options, disable_gradient_checkpointing=True, per_device_train_batch_size=4))
    assert double.parts["activations"] == pytest.approx(2 * off.parts["activations"], rel=0.02)
    # Logits over the vocabulary, policy's and reference's: rows x tokens x vocabulary, in fp32.
    one = 4 * 64 * 100 * 4
    assert one <= off.parts[VOCABULARY] <= 3 * one
    assert off.parts[REFERENCE] >= 2 * one * 0.98


def test_only_ties_keeps_masks_and_effective_factors(options: dict[str, Any]) -> None:
    changes = {"task_adapters": ["task", "task"], "disable_gradient_checkpointing": True}
    kept = {
        fusion: alone(training(options, fusion_method=fusion, **changes)).parts.get(MASKS, 0)
        for fusion in ("task_arithmetic", "ties")
    }
    assert kept["task_arithmetic"] < 4 * FACTOR_NUMBERS / 2  # a module's, while it works
    assert kept["ties"] >= 8 * FACTOR_NUMBERS


def test_a_reference_that_is_remembered_costs_nothing(options: dict[str, Any]) -> None:
    totals = alone(training(options, disable_gradient_checkpointing=True)).totals
    assert totals[LATER] < totals[STEP]
    none = alone(training(options, disable_gradient_checkpointing=True, pref_loss="simpo"))
    assert set(none.totals) == {STEP}
    assert none.total == pytest.approx(totals[LATER], rel=0.01)


def test_an_evaluation_may_be_the_peak(options: dict[str, Any]) -> None:
    found = alone(training(options, val_size=0.1, eval_strategy="steps", per_device_eval_batch_size=64))
    assert found.moment.startswith("an evaluation")
    few = alone(training(options, val_size=1, eval_strategy="steps", per_device_eval_batch_size=64))
    assert few.moment.startswith("a training step")


def test_a_reference_model_is_a_second_base(options: dict[str, Any]) -> None:
    parts = alone(training(options, mask_reference="model", ref_model="x")).parts
    assert parts["reference model"] == parts["base weights"]


def test_gradients_are_there_throughout_where_several_passes_make_a_step(options: dict[str, Any]) -> None:
    assert GRADIENTS not in alone(training(options)).parts
    parts = alone(training(options, gradient_accumulation_steps=2)).parts
    assert parts[GRADIENTS] == 4 * FACTOR_NUMBERS


def test_the_baseline(options: dict[str, Any]) -> None:
    found = training(options)
    baseline = lora_baseline(found)
    assert baseline is not None
    parts = alone(baseline).parts
    assert parts["LoRA factors"] == 4 * FACTOR_NUMBERS
    assert parts["optimiser states"] == 8 * FACTOR_NUMBERS
    assert "task vectors" not in parts
    assert lora_baseline(baseline) is None


def test_stock_trainings(options: dict[str, Any]) -> None:
    plain = {"task_adapters": None, "stage": "sft"}
    lora = alone(training(options, **plain, finetuning_type="lora", bf16=True))
    assert lora.parts["LoRA factors"] == 4 * FACTOR_NUMBERS
    full = training(options, **plain, finetuning_type="full", bf16=True)
    parts = alone(full).parts
    assert parts["base weights"] >= 4 * full.model.parameters  # trained in fp32
    assert parts["optimiser states"] == 8 * full.model.parameters
    assert parts[CAST] > 0
    second = alone(training(options, task_adapters=None, stage="dpo", finetuning_type="lora", ref_model="x"))
    assert second.parts["reference model"] == second.parts["base weights"]


def test_several_processes(options: dict[str, Any]) -> None:
    found = training(options, bf16=True, gradient_accumulation_steps=2)
    whole = alone(found).parts
    assert per_process(found, "one process", 4).parts == whole
    ddp = per_process(found, "DDP", 4).parts
    assert ddp["gradient buckets"] == 4 * FACTOR_NUMBERS
    assert ddp["base weights"] == whole["base weights"]
    fsdp = per_process(found, "FSDP2", 4).parts
    assert fsdp["base weights"] == pytest.approx(whole["base weights"] / 4, abs=1)
    half = per_process(training(options, fp16=True), "FSDP2", 4).parts
    assert half["base weights"] == pytest.approx(2 * whole["base weights"] / 4, abs=1)  # accelerate holds it in fp32
    two, three = (per_process(found, way, 4).parts for way in ("ZeRO-2", "ZeRO-3"))
    assert two["base weights"] == whole["base weights"]
    assert three["base weights"] == pytest.approx(whole["base weights"] / 4, abs=1)
    for parts in (two, three):
        assert parts["optimiser states"] == whole["optimiser states"] / 4
        assert parts[GRADIENTS] == whole[GRADIENTS] // 4


def test_live_memory_follows_real_tensors_too() -> None:
    memory = LiveMemory(lambda tensor, phase: phase)
    kept = torch.zeros(10)
    memory.leave_out([kept])
    with memory:
        memory.phase = "first"
        one = kept + 1
        two = torch.zeros(100) + one[:1]
        assert memory.now.total() == 4 * 110
        del two
        assert memory.now.total() == 4 * 10
        memory.phase = "second"
        three = one.view(2, 5).mul_(2)
        assert memory.now.total() == 4 * 10
        memory.reclassify(three, "other")
        _ = one + 1
    assert memory.highest() == ("first", {"first": 4 * 210})
    assert memory.highest(without="first") == ("second", {"other": 40, "second": 40})


def test_an_architecture_that_goes_by_values_is_refused(options: dict[str, Any], tmp_path: Any) -> None:
    from transformers import MixtralConfig

    MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, pad_token_id=0, dtype="float32", experts_implementation="eager",
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(UserError, match="MixtralForCausalLM cannot be followed without its numbers") as caught:
        alone(training(options, model_name_or_path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_an_architecture_that_asks_for_images_is_refused(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(step: Any) -> None:
        raise ValueError("`token_type_ids` is required as a model input when training")

    monkeypatch.setattr("realign_plugin.lab.estimate.step._Step.run", run)
    with pytest.raises(UserError, match=r"cannot be followed without its numbers \(`token_type_ids` is required"):
        step_memory(training(options))
