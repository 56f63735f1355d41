"""The PEFT type over whole weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError, attach_subspace
from realign_plugin.method.choices import GRANULARITIES, MASK_KINDS
from realign_plugin.tuner.layer import SafetySubspaceLayer
from tests.conftest import logits_of, make_fine_tuned, make_llama, make_tokenizer, with_random_logits

TARGET = "q_proj,v_proj,down_proj"


def base(lab: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lab / "base").eval()


def build(lab: Path, models: list[Path], **options: Any) -> SafetySubspace:
    options = {"target": TARGET} | options
    if options.get("mask_granularity") == "module":
        options["mask_rescale"] = False
    return SafetySubspace.from_models(lab / "base", models[:2], **options)


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize(("fusion", "granularity"), itertools.product(("task_arithmetic", "ties"), GRANULARITIES))
def test_adapter_loaded_adapter_and_merged_model_agree(
    lab: Path,
    models: list[Path],
    tmp_path: Path,
    tokens: torch.Tensor,
    fusion: str,
    granularity: str,
    kind: str,
) -> None:
    subspace = with_random_logits(build(lab, models, fusion_method=fusion, mask_granularity=granularity, mask=kind))
    expected = base(lab)
    with torch.no_grad():
        for module, pair in subspace.effective().items():
            expected.get_submodule(module).weight += pair["W"]
    outputs = logits_of(expected, tokens)
    attached = attach_subspace(base(lab), subspace).eval()
    loaded = PeftModel.from_pretrained(base(lab), subspace.save(tmp_path)).eval()
    assert (logits_of(attached, tokens) - outputs).abs().max() <= 1e-5
    assert torch.equal(logits_of(loaded, tokens), logits_of(attached, tokens))
    merged = loaded.merge_and_unload()
    assert (logits_of(merged, tokens) - outputs).abs().max() <= 1e-5
    for name, parameter in base(lab).named_parameters():
        touched = name.removesuffix(".weight") in subspace.logits
        unchanged = torch.equal(parameter, merged.get_parameter(name))
        assert unchanged or touched
        assert not (unchanged and touched) or granularity == "module"  # one logit may drop a whole module


@pytest.mark.parametrize("granularity", ["row", "column", "module"])
@pytest.mark.parametrize("estimator", ["relaxed", "straight_through"])
def test_the_factored_layer_has_the_gradient_of_the_whole_weight(
    lab: Path, models: list[Path], tokens: torch.Tensor, granularity: str, estimator: str, monkeypatch: Any
) -> None:
    subspace = build(lab, models, mask_granularity=granularity, mask_estimator=estimator)

    def gradients() -> list[torch.Tensor]:
        model = attach_subspace(base(lab), subspace)
        model.train()
        torch.manual_seed(3)
        model(input_ids=tokens, labels=tokens).loss.backward()
        return [p.grad for p in model.base_model.logits()]

    factored = gradients()
    monkeypatch.setattr(
        SafetySubspaceLayer,
        "effective_scale",
        lambda *_: pytest.fail("the whole weight was asked for"),
    )
    monkeypatch.setattr(
        "realign_plugin.tuner.linear.SafetySubspaceLinear._weight_update",
        lambda self, adapter, x: torch.nn.functional.linear(x, self.effective(adapter, "W")),
    )
    for one, two in zip(factored, gradients(), strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-8)


def test_references_are_the_plain_fusion_and_the_base(lab: Path, models: list[Path], tokens: torch.Tensor) -> None:
    # one task, so that the fusion is the fine-tuned model itself
    subspace = with_random_logits(SafetySubspace.from_models(lab / "base", models[:1], target=TARGET))
    fine_tuned, tuned = base(lab), AutoModelForCausalLM.from_pretrained(models[0])
    with torch.no_grad():
        for module in subspace.logits:
            fine_tuned.get_submodule(module).weight.copy_(tuned.get_submodule(module).weight)
    model = attach_subspace(base(lab), subspace).train()
    with model.base_model.reference("init"):
        assert (logits_of(model, tokens) - logits_of(fine_tuned, tokens)).abs().max() <= 1e-5
    with model.base_model.reference("aligned"):
        assert torch.equal(logits_of(model, tokens), logits_of(base(lab), tokens))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_another_base_model_is_refused(lab: Path, models: list[Path], tmp_path: Path, granularity: str) -> None:
    subspace = build(lab, models, mask_granularity=granularity)
    make_llama(tmp_path / "big", hidden=48)
    folder = subspace.save(tmp_path / "saved")
    for one in (subspace, SafetySubspace.load(folder, lazy=True)):
        other = AutoModelForCausalLM.from_pretrained(tmp_path / "big")
        message = r"adapter: .*_proj.(logits|deltas)_W has shape .*, \(.*48.*\) in the model, expected the base model"
        with pytest.raises(UserError, match=message):
            attach_subspace(other, one)


def test_vectors_keep_the_dtype_of_the_checkpoints(tmp_path: Path, tokens: torch.Tensor) -> None:
    make_llama(tmp_path / "base", dtype=torch.bfloat16)
    make_tokenizer(tmp_path / "base")
    make_fine_tuned(tmp_path / "base", tmp_path / "full", seed=4)
    subspace = SafetySubspace.from_models(tmp_path / "base", [tmp_path / "full"], target="q_proj")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    peft_model = attach_subspace(model, subspace)
    for layer in peft_model.base_model.layers():
        logits, aligned, deltas = layer.parts("default", "W")
        assert (logits.dtype, aligned, deltas.dtype) == (torch.float32, None, torch.bfloat16)
    assert logits_of(peft_model.eval(), tokens).dtype == torch.bfloat16
    peft_model.train()
    peft_model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in peft_model.base_model.logits())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("autocast", [False, True])
def test_inference_casts_whole_matrices_once(
    tmp_path: Path,
    tokens: torch.Tensor,
    granularity: str,
    dtypes: tuple[torch.dtype, torch.dtype],
    autocast: bool,
    monkeypatch: Any,
) -> None:
    """Of task vectors in another dtype than the model's, and of masked weights, which are fp32."""
    vectors, computed = dtypes
    make_llama(tmp_path / "base", dtype=vectors)
    make_tokenizer(tmp_path / "base")
    make_fine_tuned(tmp_path / "base", tmp_path / "full", seed=4)
    options: Any = {"mask_granularity": granularity, "mask_rescale": granularity != "module"}
    subspace = with_random_logits(
        SafetySubspace.from_models(tmp_path / "base", [tmp_path / "full"], target=TARGET, **options)
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=computed)
    peft_model = attach_subspace(model, subspace).eval()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        for module, pair in subspace.effective().items():
            expected.get_submodule(module).weight += pair["W"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        first = logits_of(peft_model, tokens)
        sizes: list[torch.Size] = []
        stock = torch.Tensor.to

        def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            found = stock(self, *args, **kwargs)
            sizes.extend([self.shape] if found.data_ptr() != self.data_ptr() else [])
            return found

        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(torch.Tensor, "float", lambda self: self.to(torch.float32))
        with torch.no_grad():
            peft_model.base_model.model(input_ids=tokens)
        assert torch.equal(first, logits_of(peft_model, tokens))
    assert not [shape for shape in sizes if shape in {(32, 32), (16, 32), (32, 48), (1, 32, 32), (1, 16, 32)}]
    low = autocast or computed == torch.bfloat16
    assert (first.float() - logits_of(expected, tokens)).abs().max() <= (0.6 if low else 1e-5)
    kept = {
        entry.value.dtype
        for layer in peft_model.base_model.layers()
        for entry in layer.kept._entries.values()
        if entry.value.numel() > 48
    }
    assert kept <= {torch.bfloat16 if low else torch.float32}


def test_weights_that_are_no_linear_module_are_left_out_of_all(
    lab: Path, models: list[Path], tokens: torch.Tensor
) -> None:
    subspace = SafetySubspace.from_models(lab / "base", models[:1], target="all")
    model = base(lab)

    class Fused(torch.nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight, requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight)

    for layer in model.model.layers:
        layer.mlp.down_proj = Fused(layer.mlp.down_proj.weight.detach().clone())
    with pytest.warns(UserWarning, match="2 weights are not a linear module of LlamaForCausalLM"):
        peft_model = attach_subspace(model, subspace)
    assert len(list(peft_model.base_model.layers())) == 12
    assert len(peft_model.peft_config["default"].target_modules) == 12
