"""Which parameters are trained, whoever loads an adapter or turns it on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace
from tests.conftest import logits_of, with_random_logits


@pytest.fixture(params=["lora", "weight"])
def saved(request: pytest.FixtureRequest, lab: Path, models: list[Path], tmp_path: Path) -> Path:
    if request.param == "lora":
        made = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"])
    else:
        made = SafetySubspace.from_models(lab / "base", models[:1], target="q_proj", mask_granularity="row")
    return with_random_logits(made).save(tmp_path / "saved")


def base(lab: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lab / "base")


def trained(model: Any) -> set[str]:
    return {name.partition("subspace_")[2][:6] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("turn_on", ["disable_adapter", "set_adapter", "load another", "delete another"])
def test_an_adapter_loaded_for_inference_draws_nothing(
    lab: Path, saved: Path, tokens: torch.Tensor, turn_on: str
) -> None:
    model = PeftModel.from_pretrained(base(lab), saved).train()
    expected = logits_of(model, tokens)
    if turn_on == "disable_adapter":
        with model.disable_adapter():
            logits_of(model, tokens)
    elif turn_on == "set_adapter":
        model.set_adapter("default")
    else:
        model.load_adapter(saved, "other", is_trainable=True)
        model.set_adapter("other")
        assert trained(model) == {"logits"}
        if turn_on == "delete another":
            model.delete_adapter("other")
        model.set_adapter("default")
    assert trained(model) == set()
    model.train()
    assert torch.equal(logits_of(model, tokens), expected)
    assert torch.equal(logits_of(model, tokens), expected)


def test_an_adapter_that_is_trained_is_trained_after_it_was_off(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = PeftModel.from_pretrained(base(lab), saved, is_trainable=True).train()
    with model.disable_adapter():
        assert trained(model) == set()
    assert trained(model) == {"logits"}
    assert not torch.equal(logits_of(model, tokens), logits_of(model, tokens))


def test_task_vectors_stay_frozen_in_transformers(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = base(lab)
    model.load_adapter(str(saved), is_trainable=True)
    frozen = {name: p.clone() for name, p in model.named_parameters() if "subspace_logits" not in name}
    assert trained(model) == trained(copy.deepcopy(model)) == {"logits"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
