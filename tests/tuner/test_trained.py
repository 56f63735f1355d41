"""Which parameters are trained, whoever loads an adapter or turns it on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.integrations.peft import MIN_PEFT_VERSION

from realign_plugin import SafetySubspace, UserError, attach_subspace
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


@pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers' own load_adapter needs peft {MIN_PEFT_VERSION}",
)
def test_task_vectors_stay_frozen_in_transformers(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = base(lab)
    model.load_adapter(str(saved), is_trainable=True)
    frozen = {name: p.clone() for name, p in model.named_parameters() if "subspace_logits" not in name}
    assert trained(model) == trained(copy.deepcopy(model)) == {"logits"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


@pytest.mark.parametrize("fusion", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("granularity", ["element", "row"])
@pytest.mark.parametrize("space", ["lora", "weight"])
def test_evaluation_has_the_soft_masks_gradient(
    lab: Path, models: list[Path], tokens: torch.Tensor, space: str, granularity: str, fusion: str
) -> None:
    """It is that of training without noise at temperature 1, where the mask is the same."""
    options: Any = {
        "mask_granularity": granularity,
        "fusion_method": fusion,
        "mask_noise": 0.0,
        "mask_temperature": 1.0,
    }
    if space == "lora":
        made = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"], **options)
    else:
        made = SafetySubspace.from_models(lab / "base", models[:2], target="q_proj", **options)
    model = attach_subspace(base(lab), with_random_logits(made))
    found = []
    for training in (True, False):
        model.train(training).zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        found.append([logits.grad.clone() for logits in model.base_model.logits()])
    for one, two in zip(*found, strict=True):
        assert one.any()
        assert (one - two).abs().max() <= 1e-5 * one.abs().max()
    before = logits_of(model, tokens)
    assert torch.equal(model(input_ids=tokens).logits, before)
    with model.base_model.reference("init"):
        assert not model(input_ids=tokens).logits.requires_grad


@pytest.mark.parametrize("mask", ["binary", "sampled", "relaxed"])
def test_evaluation_of_a_mask_without_gradient(lab: Path, saved: Path, tokens: torch.Tensor, mask: str) -> None:
    model = PeftModel.from_pretrained(base(lab), saved, is_trainable=True).eval()
    model.base_model.set_mask(mask)
    found = model(input_ids=tokens, labels=tokens)
    assert torch.equal(found.logits, logits_of(model, tokens))
    with pytest.raises(UserError, match=rf"mask: '{mask}' has no gradient, .* call model.train\(\)"):
        found.loss.backward()
