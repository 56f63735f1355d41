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


def test_task_vectors_stay_frozen_in_transformers(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = base(lab)
    model.load_adapter(str(saved), is_trainable=True)
    frozen = {name: p.clone() for name, p in model.named_parameters() if "subspace_logits" not in name}
    assert trained(model) == trained(copy.deepcopy(model)) == {"logits"}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
