"""Adapters that were saved after the base model's vocabulary was resized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from tests.conftest import logits_of


def resized(lab: Path, size: int = 82) -> Any:
    model = AutoModelForCausalLM.from_pretrained(lab / "base")
    model.resize_token_embeddings(size, mean_resizing=False)
    return model


@pytest.fixture
def saved(lab: Path, subspace: SafetySubspace, tmp_path: Path) -> tuple[Path, Any]:
    """Where PEFT saved such an adapter, and the model it saved."""
    subspace.base_model = str(lab / "base")
    model = PeftModel.from_pretrained(resized(lab), subspace.save(tmp_path / "before")).eval()
    with pytest.warns(UserWarning, match="the embedding layer has been resized"):
        model.save_pretrained(tmp_path / "after")
    return tmp_path / "after", model


def test_reloading_gives_the_same_model(lab: Path, saved: tuple[Path, Any], tokens: torch.Tensor) -> None:
    folder, model = saved
    again = PeftModel.from_pretrained(resized(lab), folder).eval()
    tokens = torch.cat([tokens, torch.tensor([[80], [81]])], 1)
    assert torch.equal(logits_of(again, tokens), logits_of(model, tokens))


@pytest.mark.parametrize("size", [80, 90])
def test_another_vocabulary_is_refused(lab: Path, saved: tuple[Path, Any], size: int) -> None:
    message = (
        rf"(embed_tokens|lm_head).weight has shape \(82, 32\), \({size}, 32\) .* call resize_token_embeddings\(82\)"
    )
    with pytest.raises(UserError, match=message):
        PeftModel.from_pretrained(resized(lab, size), saved[0])


def test_what_export_leaves_out_is_said(subspace: SafetySubspace, saved: tuple[Path, Any]) -> None:
    with pytest.warns(UserWarning, match=r"(embed_tokens|lm_head).weight of a resized vocabulary is saved with"):
        loaded = SafetySubspace.load(saved[0])
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in subspace.state_dict().items())
