"""Adapters that are made, saved, and several of them in one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file

from realign_plugin import SafetySubspace, SafetySubspaceConfig, UserError
from tests.conftest import logits_of, make_lora, with_random_logits
from tests.tuner.test_model import base, loaded


@pytest.fixture
def saved(subspace: Any, tmp_path: Path) -> Path:
    return Path(subspace.save(tmp_path / "subspace"))


def test_save_pretrained_gives_what_safety_subspace_saves(lab: Path, saved: Path, tmp_path: Path) -> None:
    loaded(lab, saved).save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.bin"))
    ours, theirs = (load_file(p / "adapter_model.safetensors") for p in (saved, tmp_path / "again"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
    again = SafetySubspace.load(tmp_path / "again")
    assert again.spec.sources == SafetySubspace.load(saved).spec.sources


def test_several_adapters(lab: Path, saved: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    other = with_random_logits(SafetySubspace.from_adapters(lab / "aligned", [lab / "task3"]), seed=8)
    other.save(tmp_path / "other")
    model = loaded(lab, saved)
    first = logits_of(model, tokens)
    model.load_adapter(tmp_path / "other", adapter_name="other")
    assert torch.equal(logits_of(model, tokens), first)
    model.set_adapter("other")
    second = logits_of(model, tokens)
    assert torch.allclose(second, logits_of(loaded(lab, tmp_path / "other"), tokens), atol=1e-6)
    assert not torch.allclose(first, second)
    model.set_adapter("default")
    assert torch.equal(logits_of(model, tokens), first)
    model.delete_adapter("other")
    assert torch.equal(logits_of(model, tokens), first)
    assert not [n for n in model.state_dict() if "other" in n]


def test_each_of_several_adapters_is_saved_alone(lab: Path, saved: Path, tmp_path: Path) -> None:
    """Their names begin or end alike."""
    model = PeftModel.from_pretrained(base(lab), saved, adapter_name="a")
    folders = {"a": saved}
    for number, name in enumerate(("ab", "b", "a_b")):
        made = with_random_logits(SafetySubspace.from_adapters(None, [lab / f"task{number % 3 + 1}"]), seed=number)
        folders[name] = made.save(tmp_path / "from" / name)
        model.load_adapter(folders[name], adapter_name=name)
    model.save_pretrained(tmp_path / "to")
    for name, folder in folders.items():
        ours, theirs = (load_file(p / "adapter_model.safetensors") for p in (folder, tmp_path / "to" / name))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert SafetySubspace.load(tmp_path / "to" / name).spec.has_aligned == (name == "a")
        given = get_peft_model_state_dict(model, state_dict=model.state_dict(), adapter_name=name)
        assert given.keys() == ours.keys()


def test_beside_a_lora_adapter(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    state = get_peft_model_state_dict(loaded(lab, saved))
    assert all("safety_subspace_" in name for name in state)


@pytest.mark.parametrize(("granularity", "factor"), [("row", "A"), ("column", "B")])
def test_masks_of_one_logit_that_cancel_out(lab: Path, tmp_path: Path, granularity: str, factor: str) -> None:
    """Rank 1: A has one row, B one column."""
    make_lora(lab / "base", tmp_path / "thin", r=1)
    message = rf"mask_granularity: '{granularity}' and mask_rescale: true cancel out for {factor} of .*q_proj, shape"
    options: Any = {"mask_granularity": granularity}
    with pytest.raises(UserError, match=message):
        SafetySubspace.from_adapters(None, [tmp_path / "thin"], **options)
    with pytest.raises(UserError, match=message):
        get_peft_model(base(lab), SafetySubspaceConfig(target_modules=["q_proj"], r=1, **options))
    pattern = {"rank_pattern": {"model.layers.1.self_attn.q_proj": 1}}
    with pytest.raises(UserError, match=rf"cancel out for {factor} of model.layers.1.self_attn.q_proj"):
        get_peft_model(base(lab), SafetySubspaceConfig(target_modules=["q_proj"], r=4, **options, **pattern))
    SafetySubspace.from_adapters(None, [tmp_path / "thin"], **options, mask_rescale=False)
    SafetySubspace.from_adapters(None, [tmp_path / "thin"])
