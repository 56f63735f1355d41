"""``torch.inference_mode``, whose tensors have no version and no place in autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace
from tests.conftest import logits_of, with_random_logits


@pytest.fixture(params=["lora", "ties", "weight", "rows"])
def saved(request: pytest.FixtureRequest, lab: Path, models: list[Path], tmp_path: Path) -> Path:
    options: Any = {"ties": {"fusion_method": "ties"}, "rows": {"mask_granularity": "row"}}.get(request.param, {})
    if request.param in ("lora", "ties"):
        made = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"], **options)
    else:
        made = SafetySubspace.from_models(lab / "base", models[:1], target="q_proj", **options)
    return with_random_logits(made).save(tmp_path / "saved")


def loaded(lab: Path, saved: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), saved).eval()


def check_gradient_of_inputs(model: Any, tokens: torch.Tensor) -> None:
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    model(inputs_embeds=inputs).logits.sum().backward()
    assert inputs.grad.any()


def test_loaded_and_used_inside(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    expected = logits_of(loaded(lab, saved), tokens)
    with torch.inference_mode():
        model = loaded(lab, saved)
        for _ in range(2):
            assert torch.equal(logits_of(model, tokens), expected)
        model.generate(input_ids=tokens, max_new_tokens=2, do_sample=False)
    assert torch.equal(logits_of(model, tokens), expected)


def test_an_edit_inside_is_seen(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    with torch.inference_mode():
        model = loaded(lab, saved)
        before = logits_of(model, tokens)
        for logits in model.base_model.logits():
            logits.copy_(logits.flip(0) + 1.0)
        after = logits_of(model, tokens)
        assert not torch.equal(before, after)
        for layer in model.base_model.layers():
            layer.kept.forget()
        assert torch.equal(logits_of(model, tokens), after)


def test_a_gradient_of_the_inputs_afterwards(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = loaded(lab, saved)
    with torch.inference_mode():
        model(input_ids=tokens)
    check_gradient_of_inputs(model, tokens)


def test_merged_inside(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = loaded(lab, saved)
    for change in (model.merge_adapter, model.unmerge_adapter):
        with torch.inference_mode():
            change()
        check_gradient_of_inputs(model, tokens)
