"""Models with 20 target modules and more, of which PEFT saves ``target_modules`` as suffixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError, attach_subspace
from realign_plugin.subspace.fingerprints import fingerprint
from realign_plugin.subspace.transfer import transfer
from tests.conftest import logits_of, make_fine_tuned, make_llama, with_random_logits
from tests.subspace.test_lora_adapters import edited_config

MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in range(13) for name in ("q_proj", "v_proj")]
Build = Callable[[Path], SafetySubspace]


def lora(deep: Path) -> SafetySubspace:
    return SafetySubspace.from_adapters(deep / "aligned", [deep / "task1"])


def weight(deep: Path) -> SafetySubspace:
    return SafetySubspace.from_models(
        deep / "base", [deep / "full1", deep / "full2"], target="q_proj,v_proj", task_weight=[0.9, 0.1]
    )


def saved_by_peft(deep: Path, folder: Path, build: Build, *, shortened: bool) -> Path:
    """A subspace that went through a PEFT model; ``shortened``: as versions before this one saved it."""
    subspace = with_random_logits(build(deep)) if build is lora else build(deep)
    subspace.spec.base_sha256 = fingerprint(deep / "base", list(subspace.logits))
    model = attach_subspace(AutoModelForCausalLM.from_pretrained(deep / "base"), subspace)
    model.save_pretrained(folder)
    if shortened:
        edited_config(folder, target_modules=["v_proj", "q_proj"])
    return folder


def merged(deep: Path, out: Path, adapter: Path, base: Path, *models: Path) -> dict[str, torch.Tensor]:
    config = {
        "merge_method": "safety_subspace",
        "base_model": str(base),
        "models": [{"model": str(path)} for path in models or (base,)],
        "parameters": {"adapter": str(adapter)},
    }
    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True))
    return {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}


def test_full_names_are_saved(deep: Path, tmp_path: Path) -> None:
    folder = saved_by_peft(deep, tmp_path / "s", lora, shortened=False)
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == MODULES
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(deep / "base"), folder)
    again.save_pretrained(tmp_path / "t")
    assert json.loads((tmp_path / "t" / "adapter_config.json").read_text())["target_modules"] == MODULES


@pytest.mark.parametrize("shortened", [False, True])
def test_names_are_those_of_the_tensors(deep: Path, tmp_path: Path, tokens: Any, shortened: bool) -> None:
    folder = saved_by_peft(deep, tmp_path / "s", lora, shortened=shortened)
    subspace = SafetySubspace.load(folder)
    assert subspace.spec.target_modules == list(subspace.logits) == MODULES
    moved = transfer(subspace, deep / "task2")
    direct = SafetySubspace.from_adapters(deep / "aligned", [deep / "task2"])
    direct.logits = subspace.logits
    for module, pair in direct.effective().items():
        assert torch.equal(moved.effective()[module]["B"], pair["B"])
    base = deep / "base"
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), subspace.to_lora(tmp_path / "l"))
    torch.testing.assert_close(logits_of(plain, tokens), logits_of(whole, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shortened", [False, True])
@pytest.mark.parametrize("build", [lora, weight])
def test_another_base_is_refused(deep: Path, tmp_path: Path, build: Build, shortened: bool) -> None:
    adapter = saved_by_peft(deep, tmp_path / "s", build, shortened=shortened)
    models = (deep / "full1", deep / "full2") if build is weight else ()
    assert len(merged(deep, tmp_path / "m", adapter, deep / "base", *models)) > len(MODULES)
    noisy = make_fine_tuned(deep / "base", tmp_path / "noisy", seed=5, step=0.1)
    with pytest.raises(UserError, match=r"is not the model that .* was trained on \(sha256 of its weights"):
        merged(deep, tmp_path / "n", adapter, noisy, *models)


@pytest.mark.parametrize("shortened", [False, True])
def test_another_order_of_the_models_is_refused(deep: Path, tmp_path: Path, shortened: bool) -> None:
    adapter = saved_by_peft(deep, tmp_path / "s", weight, shortened=shortened)
    with pytest.raises(UserError, match=f"are in another order than when {adapter} was"):
        merged(deep, tmp_path / "m", adapter, deep / "base", deep / "full2", deep / "full1")


def test_modules_of_another_run_are_refused(deep: Path, tmp_path: Path) -> None:
    folder = saved_by_peft(deep, tmp_path / "s", lora, shortened=False)
    for targets, message in (
        ([*MODULES, "model.layers.13.self_attn.q_proj"], "holds no tensor of model.layers.13.self_attn.q_proj, which"),
        (MODULES[:-1], f"holds tensors of {MODULES[-1]}, which target_modules in adapter_config.json does not name"),
        (["q_proj"], "holds tensors of model.layers.0.self_attn.v_proj"),
        (["q_proj", "v_proj", "k_proj"], "holds no tensor of k_proj"),
    ):
        other = Path(shutil.copytree(folder, tmp_path / "other", dirs_exist_ok=True))
        edited_config(other, target_modules=targets)
        for load in (SafetySubspace.load, lambda f: PeftModel.from_pretrained(torch.nn.Linear(2, 2), f)):
            with pytest.raises(UserError, match=message):
                load(other)


def test_a_model_that_is_not_the_base_is_refused(deep: Path, tmp_path: Path) -> None:
    """PEFT by itself leaves out what the model does not have."""

    def load(base: str, **options: int) -> None:
        make_llama(tmp_path / base, **options)
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / base), folder)

    folder = saved_by_peft(deep, tmp_path / "s", lora, shortened=False)
    with pytest.raises(UserError, match=r"target module model.layers.2.self_attn.q_proj is not in LlamaForCausalLM"):
        load("short", hidden=16, layers=2)
    edited_config(folder, target_modules=["q_proj", "v_proj"])
    with pytest.raises(UserError, match=r"model.layers.\d+.self_attn.\S+ is not in LlamaForCausalLM, expected"):
        load("short", hidden=16, layers=2)
    with pytest.raises(UserError, match=r"has shape \(2, 16\), \(2, 32\) in the model"):
        load("wide", hidden=32, layers=13)
