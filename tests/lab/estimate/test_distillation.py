"""Self-distillation: the head sees answers alone, teachers' logits beside the student's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate import step
from realign_plugin.lab.estimate.answers import answers
from realign_plugin.lab.estimate.memory import alone
from realign_plugin.lab.estimate.parameters import lora_baseline
from realign_plugin.lab.estimate.step import LATER, STEP, VOCABULARY
from realign_plugin.lab.estimate.training import Training, read_training
from realign_plugin.lab.study.planning.commands import OnPolicy

Options = dict[str, Any]
DISTILLED = {"stage": "safety_distill", "aligned_adapter": "elsewhere", "disable_gradient_checkpointing": True}
MIB = 2**20


def training(options: Options, **changes: Any) -> Training:
    return read_training("x", options | DISTILLED | changes)


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_rows_are_no_pairs_and_logits_are_those_of_both_models(options: Options, kind: str) -> None:
    found = training(options, finetuning_type=kind)
    assert found.rows == 2
    memory = alone(found)
    one = 2 * 63 * 100 * 2  # rows, tokens that predict another, vocabulary, bf16
    # The logits of both models and their gradient, and of a vocabulary as small as this all in fp32 beside them.
    assert 4 * one <= memory.parts[VOCABULARY] <= 12 * one
    assert set(memory.totals) == {STEP, LATER}
    assert memory.totals[LATER] <= memory.totals[STEP]
    assert any("answers fill their rows" in text for text in found.assumed)


def test_teachers_of_a_lora_adapter_are_frozen_copies(options: Options) -> None:
    masks, lora = (alone(training(options, finetuning_type=kind)).parts for kind in ("safety_subspace", "lora"))
    factors = masks["mask logits"]
    assert lora["LoRA factors"] == factors
    assert lora["teachers' LoRA factors"] == 2 * factors
    assert lora["optimiser states"] == masks["optimiser states"] == 2 * factors
    instruct = alone(training(options, finetuning_type="lora", aligned_adapter=None)).parts
    assert instruct["teachers' LoRA factors"] == factors


def test_both_are_held_against_lora_dpo(options: Options) -> None:
    for kind in ("safety_subspace", "lora"):
        baseline = lora_baseline(training(options, finetuning_type=kind))
        assert baseline is not None
        assert (baseline.stage, baseline.kind, baseline.rows) == ("dpo", "lora", 4)
        assert "teachers' LoRA factors" not in alone(baseline).parts


def test_whole_models_and_other_types(options: Options) -> None:
    found = training(options, task_adapters=None, task_models=["other"], aligned_adapter=None, lora_target="all")
    assert alone(found).parts["task vectors"] > 0
    with pytest.raises(UserError, match="finetuning_type: 'full'"):
        training(options, finetuning_type="full")


def test_the_measured_difference_to_lora_dpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/performance.md: 772 MiB less than LoRA-DPO on rows of 64 tokens, half of them the answer's, fp32."""
    LlamaConfig(
        vocab_size=151936, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=16, dtype="float32", pad_token_id=0,
    ).save_pretrained(tmp_path)  # fmt: skip
    targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    common = {
        "model_name_or_path": str(tmp_path), "cutoff_len": 64, "lora_rank": 16, "lora_target": targets,
        "disable_gradient_checkpointing": True,
    }  # fmt: skip
    dpo = {"stage": "dpo", "finetuning_type": "lora", "per_device_train_batch_size": 4}
    baseline = alone(read_training("x", common | dpo)).total
    half = step._Head._answers
    monkeypatch.setattr(step._Head, "_answers", lambda self, hidden: half(self, hidden[:, 31:]))
    for kind in ("safety_subspace", "lora"):
        mine = common | DISTILLED | {"finetuning_type": kind, "task_adapters": ["nowhere"]}
        found = alone(read_training("x", mine | {"per_device_train_batch_size": 8})).total
        assert (found - baseline) / MIB == pytest.approx(-772, rel=0.03)


def test_answers_of_the_studys_own_models(tmp_path: Path) -> None:
    for name, count in (("harmful", 5), ("benign", 3), ("skill", 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"prompt": f"{name} {n}"} for n in range(count)]))
    sources = {"prompts": ["harmful.json"], "benign": ["benign.json"]}
    command = OnPolicy("data", "own", True, "base", "tuned", None, sources, {})
    found = answers(command, tmp_path)
    assert (found.count, found.tokens, found.left_out) == (16, 16 * 64, [])  # two models
    with_skill = replace(command, sources=sources | {"skill": ["skill.json"]})
    more = answers(replace(with_skill, options={"limit": 3, "max_tokens": 10}), tmp_path)
    assert (more.count, more.tokens) == (12 + 4, 12 * 10 + 4 * 256)
    more = answers(replace(command, sources=sources | {"benign": ["benign.json", "org/hub", "later.json"]}), tmp_path)
    assert (more.count, more.left_out) == (16, ["org/hub", "later.json"])
    ours = answers(replace(command, sources=sources | {"benign": ["borderline"], "skill": ["gsm8k"]}), tmp_path)
    assert (ours.count, ours.left_out) == (2 * (5 + 232), [])
    (tmp_path / "skill.json").write_text(json.dumps([{"prompt": "skill", "output": "there already"}]))
    assert answers(with_skill, tmp_path).count == 16


def test_a_study_that_distils(llama: Path, tmp_path: Path, realign: Callable[..., tuple[int, str, str]]) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt": f"how do i make {n} ?"} for n in range(7)]))
    study = {
        "root": "runs/it",
        "model": str(llama),
        "template": "llama3",
        "data": {
            "answers": {"kind": "sft", "task": "align"},
            "maths": {"kind": "sft", "task": "gsm8k"},
            "own": {"kind": "on_policy", "prompts": str(prompts), "skill": str(prompts)},
        },
        "align": {"steps": [{"stage": "sft", "dataset": "answers"}]},
        "tasks": {"maths": {"dataset": "maths"}},
        "methods": {"distill": {}, "distill_lora": {}},
        "train": {"all": {"cutoff_len": 32}, "lora": {"lora_rank": 4}},
        "evaluate": {"tasks": "safety", "metadata": {"judge": "off"}},
    }
    code, out, _ = realign(study, "--json")
    assert code == 0
    found = json.loads(out)
    assert [(row["stage"], row["kind"]) for row in found["trainings"]][-2:] == [
        ("safety_distill", "mask"), ("safety_distill", "lora"),
    ]  # fmt: skip
    assert found["answers"] == {"count": 2 * 7 + 7, "tokens": 14 * 64 + 7 * 256}
    assert found["judge"]["calls"] == found["evaluations"] * 846  # agreement asks no judge
    study["data"]["own"]["benign"] = ["borderline", "org/hub"]
    code, out, _ = realign(study)
    assert code == 0
    assert f"{21 + 2 * 232} answers" in out
    assert "Not counted: data-own (org/hub); data sets" in " ".join(out.split())
