"""Merging into the base model: the mask that is shipped, whatever state the model is in, and back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError, attach_subspace
from tests.conftest import logits_of, make_tied, with_random_logits


def build(lab: Path, models: list[Path], space: str) -> SafetySubspace:
    if space == "lora":
        return with_random_logits(SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"]))
    return with_random_logits(SafetySubspace.from_models(lab / "base", models[:2], target="q_proj,v_proj"))


def attached(lab: Path, subspace: SafetySubspace, dtype: torch.dtype = torch.float32) -> Any:
    return attach_subspace(AutoModelForCausalLM.from_pretrained(lab / "base", dtype=dtype), subspace)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {layer.module_name: layer.get_base_layer().weight.detach().clone() for layer in model.base_model.layers()}


@pytest.mark.parametrize("space", ["lora", "weight"])
def test_a_model_in_training_is_merged_with_the_mask_that_is_shipped(
    lab: Path, models: list[Path], space: str
) -> None:
    subspace = build(lab, models, space)
    expected = attached(lab, subspace).eval().merge_and_unload().state_dict()
    for context in ("train", "init", "aligned"):
        model = attached(lab, subspace).train()
        if context == "train":
            merged = model.merge_and_unload().state_dict()
        else:
            with model.base_model.reference(context):
                merged = model.merge_and_unload().state_dict()
        assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("space", ["lora", "weight"])
def test_what_was_merged_is_what_is_unmerged(
    lab: Path, models: list[Path], tokens: torch.Tensor, space: str, dtype: torch.dtype
) -> None:
    model = attached(lab, build(lab, models, space), dtype).train()
    before = weights(model)
    soft = logits_of(model.eval(), tokens)
    model.train().merge_adapter()
    assert not any(torch.equal(w, before[name]) for name, w in weights(model).items())
    assert (logits_of(model.eval(), tokens) - soft).abs().max() <= (1e-5 if dtype == torch.float32 else 0.2)
    with pytest.warns(UserWarning, match=r"default is merged with its earlier mask, .* until unmerge_adapter"):
        model.base_model.set_mask("binary")
    for logits in model.base_model.logits():
        logits.data.neg_()
    model.unmerge_adapter()
    assert all(torch.equal(w, before[name]) for name, w in weights(model).items())
    with pytest.warns(UserWarning, match="Already unmerged"):
        next(model.base_model.layers()).unmerge()


def test_an_adapter_that_is_turned_off_while_merged(lab: Path, subspace: SafetySubspace, tokens: torch.Tensor) -> None:
    model = attached(lab, subspace).eval()
    before = logits_of(model, tokens)
    model.merge_adapter()
    with model.disable_adapter():
        plain = AutoModelForCausalLM.from_pretrained(lab / "base")
        assert torch.equal(logits_of(model, tokens), logits_of(plain, tokens))
    assert torch.equal(logits_of(model, tokens), before)


def test_two_adapters_are_rounded_once_and_go_one_after_the_other(lab: Path, subspace: SafetySubspace) -> None:
    model = attached(lab, subspace, torch.bfloat16)
    other = with_random_logits(SafetySubspace.from_adapters(None, [lab / "task3"]), seed=9)
    model.add_adapter("other", type(model.peft_config["default"]).from_spec(other.spec))
    for layer in model.base_model.layers():
        parts = other.logits[layer.module_name] | {}
        layer.fill("other", {f"logits_{factor}": tensor for factor, tensor in parts.items()})
        layer.fill("other", {f"deltas_{f}": t for f, t in other.stacked_deltas(layer.module_name).items()})
    before = weights(model)
    model.merge_adapter(["default", "other"])
    for layer in model.base_model.layers():
        name, weight = layer.module_name, layer.get_base_layer().weight
        update = sum(layer.get_delta_weight(adapter) for adapter in ("default", "other"))
        expected = (before[name].float() + update).bfloat16()
        assert (weight != expected).float().mean() < 1e-3
    model.unmerge_adapter()
    assert all(torch.equal(w, before[name]) for name, w in weights(model).items())


def test_a_model_that_was_moved_while_merged(lab: Path, subspace: SafetySubspace) -> None:
    model = attached(lab, subspace)
    before = weights(model)
    model.merge_adapter()
    model.bfloat16()
    model.unmerge_adapter()
    assert all(torch.equal(w, before[name].bfloat16()) for name, w in weights(model).items())


def test_a_head_that_is_the_embedding_is_not_merged_into(lab: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    base, trained = make_tied(lab, tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained).eval()
    expected = logits_of(model, tokens)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(
            UserError, match=r"^adapter: lm_head is tied to the embedding in Llama.*; untie it and save"
        ):
            merge()
    assert torch.equal(logits_of(model, tokens), expected)
    assert isinstance(model.unload().lm_head, torch.nn.Linear)


def test_a_head_that_is_untied_as_docs_say_is_merged_into(lab: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    base, trained = make_tied(lab, tmp_path)
    expected = logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained), tokens)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "untied")
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "untied")
    merged = PeftModel.from_pretrained(own, trained).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    found = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), tokens)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
