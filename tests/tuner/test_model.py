"""The PEFT type: all that works for LoRA works for it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, SafetySubspaceConfig, UserError, attach_subspace
from realign_plugin.method.choices import MASK_KINDS
from realign_plugin.tuner.attach import subspace_of
from realign_plugin.tuner.layer import SafetySubspaceLayer
from tests.conftest import logits_of, make_llama, make_lora, with_random_logits


def base(lab: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lab / "base").eval()


def loaded(lab: Path, folder: Path, **options: Any) -> Any:
    return PeftModel.from_pretrained(base(lab), folder, **options).eval()


@pytest.fixture
def saved(subspace: Any, tmp_path: Path) -> Path:
    return Path(subspace.save(tmp_path / "subspace"))


def test_peft_knows_the_type(saved: Path) -> None:
    config = PeftConfig.from_pretrained(saved)
    assert isinstance(config, SafetySubspaceConfig)
    assert config.peft_type == "SAFETY_SUBSPACE"
    assert config.task_type == "CAUSAL_LM"


def test_forward_is_base_plus_effective_factors(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    subspace = SafetySubspace.load(saved)
    model = base(lab)
    with torch.no_grad():
        for module, pair in subspace.effective().items():
            model.get_submodule(module).weight += subspace.spec.scaling(module) * pair["B"] @ pair["A"]
    assert torch.allclose(logits_of(loaded(lab, saved), tokens), logits_of(model, tokens), atol=1e-5)


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("fusion", ["task_arithmetic", "ties", "dare", "average"])
@pytest.mark.parametrize("with_aligned", [True, False])
def test_adapter_exported_lora_and_merged_model_agree(
    lab: Path, tmp_path: Path, tokens: torch.Tensor, kind: str, fusion: str, with_aligned: bool
) -> None:
    subspace = with_random_logits(
        SafetySubspace.from_adapters(
            lab / "aligned" if with_aligned else None, [lab / "task1", lab / "task2"], fusion_method=fusion, mask=kind
        )
    )
    subspace.spec.mask_seed = 3
    adapter = logits_of(loaded(lab, subspace.save(tmp_path / "s")), tokens)
    exported = logits_of(loaded(lab, subspace.to_lora(tmp_path / "l")), tokens)
    merged = logits_of(loaded(lab, tmp_path / "s").merge_and_unload(safe_merge=True), tokens)
    assert (adapter - exported).abs().max() <= 1e-5
    assert (adapter - merged).abs().max() <= 1e-5
    assert (adapter - logits_of(base(lab), tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_two_loads_give_identical_outputs(lab: Path, saved: Path, tokens: torch.Tensor, kind: str) -> None:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = loaded(lab, saved)
        model.base_model.set_mask(kind, seed=5)
        outputs.append(logits_of(model, tokens))
    assert torch.equal(*outputs)


def test_only_logits_are_trained(lab: Path, saved: Path) -> None:
    model = loaded(lab, saved, is_trainable=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 8
    assert all("safety_subspace_logits_" in name for name in trained)
    assert not [name for name, p in loaded(lab, saved).named_parameters() if p.requires_grad]
    assert all(p.requires_grad is False for n, p in model.named_parameters() if "deltas" in n or "aligned" in n)


def test_training_draws_and_evaluation_does_not(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = loaded(lab, saved, is_trainable=True)
    assert torch.equal(logits_of(model, tokens), logits_of(model, tokens))
    model.train()
    assert not torch.equal(logits_of(model, tokens), logits_of(model, tokens))
    torch.manual_seed(3)
    first = logits_of(model, tokens)
    torch.manual_seed(3)
    assert torch.equal(first, logits_of(model, tokens))


def test_a_step_changes_logits_alone_and_evaluation_notices(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = loaded(lab, saved, is_trainable=True)
    before = logits_of(model, tokens)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.5, weight_decay=0.0)
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    model.eval()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not torch.equal(before, logits_of(model, tokens))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradient(
    lab: Path, saved: Path, tokens: torch.Tensor, reentrant: bool
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = loaded(lab, saved, is_trainable=True)
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        torch.manual_seed(11)
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6 * gradients[0].abs().max()


def test_disable_adapter_is_the_base(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    model = loaded(lab, saved)
    with model.disable_adapter():
        assert torch.equal(logits_of(model, tokens), logits_of(base(lab), tokens))


def test_references(lab: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    subspace = with_random_logits(SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"]))
    model = loaded(lab, subspace.save(tmp_path), is_trainable=True)
    model.train()
    with model.base_model.reference("init"):
        assert torch.allclose(logits_of(model, tokens), logits_of(loaded(lab, lab / "task1"), tokens), atol=1e-5)
    with model.base_model.reference("aligned"):
        assert torch.allclose(logits_of(model, tokens), logits_of(loaded(lab, lab / "aligned"), tokens), atol=1e-5)
    alone = loaded(lab, SafetySubspace.from_adapters(None, [lab / "task1"]).save(tmp_path / "alone"))
    with alone.base_model.reference("aligned"):
        assert torch.allclose(logits_of(alone, tokens), logits_of(base(lab), tokens), atol=1e-6)


def test_untouched_modules_stay_bit_for_bit(lab: Path, saved: Path) -> None:
    merged = loaded(lab, saved).merge_and_unload().state_dict()
    touched = {f"{m}.weight" for m in SafetySubspace.load(saved).logits}
    for name, tensor in base(lab).state_dict().items():
        assert torch.equal(merged[name], tensor) != (name in touched), name


def test_unload_gives_the_base_back(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    assert torch.equal(logits_of(loaded(lab, saved).unload(), tokens), logits_of(base(lab), tokens))


def test_low_cpu_mem_usage_keeps_the_logits_in_fp32(tmp_path: Path, tokens: torch.Tensor) -> None:
    make_llama(tmp_path / "base", dtype=torch.bfloat16)
    make_lora(tmp_path / "base", tmp_path / "task")
    subspace = with_random_logits(SafetySubspace.from_adapters(None, [tmp_path / "task"]))
    subspace.save(tmp_path / "s")
    models = [
        PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16),
            tmp_path / "s",
            low_cpu_mem_usage=low,
        ).eval()
        for low in (False, True)
    ]
    for model in models:
        for layer in model.base_model.layers():
            for factor in "AB":
                logits, _, deltas = layer.parts("default", factor)
                assert logits.dtype == torch.float32
                assert torch.equal(logits, subspace.logits[layer.module_name][factor])
                assert deltas.dtype == getattr(torch, subspace.spec.vector_dtype)
    assert torch.equal(logits_of(models[0], tokens), logits_of(models[1], tokens))
    assert logits_of(models[0], tokens).dtype == torch.bfloat16


def test_merging_into_bf16_rounds_once(tmp_path: Path) -> None:
    make_llama(tmp_path / "base", dtype=torch.bfloat16)
    make_lora(tmp_path / "base", tmp_path / "task")
    subspace = with_random_logits(SafetySubspace.from_adapters(None, [tmp_path / "task"]))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    weights = {m: model.get_submodule(m).weight.detach().clone() for m in subspace.logits}
    merged = PeftModel.from_pretrained(model, subspace.save(tmp_path / "s")).merge_and_unload()
    for module, pair in subspace.effective().items():
        exact = weights[module].double() + subspace.spec.scaling(module) * pair["B"].double() @ pair["A"].double()
        found = merged.get_submodule(module).weight.double()
        half_ulp = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 9)
        assert ((found - exact).abs() <= 1.0001 * half_ulp + 1e-9).all()


def test_a_quantised_base_is_trained_on_but_not_merged(lab: Path, saved: Path, tokens: torch.Tensor) -> None:
    class Linear4bit(torch.nn.Linear):
        """Stores int8 weights, as quantised layers do."""

        def __init__(self, source: torch.nn.Linear) -> None:
            super().__init__(source.in_features, source.out_features, bias=False)
            self.scale = float(source.weight.detach().abs().max()) / 127
            self.weight = torch.nn.Parameter((source.weight / self.scale).round().to(torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight.float() * self.scale)

    model = base(lab)
    for name in SafetySubspace.load(saved).logits:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Linear4bit(model.get_submodule(name)))
    peft_model = PeftModel.from_pretrained(model, saved, is_trainable=True)
    peft_model.train()
    peft_model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in peft_model.base_model.logits())
    with pytest.raises(
        UserError, match=r"quantised Linear4bit, expected fp32, fp16 or bf16 weights; .*realign export"
    ):
        peft_model.merge_and_unload()


def test_resumed_training_goes_on_from_the_saved_logits(lab: Path, saved: Path, tmp_path: Path) -> None:
    model = loaded(lab, saved, is_trainable=True)
    with torch.no_grad():
        for logits in model.base_model.logits():
            logits.add_(1.0)
    model.save_pretrained(tmp_path / "mid")
    again = loaded(lab, tmp_path / "mid", is_trainable=True)
    assert all(torch.equal(a, b) for a, b in zip(model.base_model.logits(), again.base_model.logits(), strict=True))


def test_attach_and_take_out(lab: Path, subspace: Any, tokens: torch.Tensor, saved: Path) -> None:
    model = attach_subspace(base(lab), subspace)
    assert torch.equal(logits_of(model.eval(), tokens), logits_of(loaded(lab, saved), tokens))
    taken = subspace_of(model)
    for name, tensor in subspace.state_dict().items():
        assert torch.equal(taken.state_dict()[name], tensor)


def test_get_peft_model_with_a_config(lab: Path) -> None:
    config = SafetySubspaceConfig(target_modules=["q_proj"], r=3, lora_alpha=6, mask_granularity="row")
    model = get_peft_model(base(lab), config)
    layer = next(m for m in model.modules() if isinstance(m, SafetySubspaceLayer))
    assert layer.parts("default", "A")[0].shape == (3, 1)
    assert layer.scaling["default"] == 2.0


def test_a_base_model_that_does_not_fit_is_refused(tmp_path: Path, subspace: Any) -> None:
    make_llama(tmp_path / "wide", hidden=48)
    with pytest.raises(UserError, match=r"trained for a weight of shape .*check model_name_or_path"):
        attach_subspace(AutoModelForCausalLM.from_pretrained(tmp_path / "wide"), subspace)
    make_llama(tmp_path / "short", layers=1)
    with pytest.raises(UserError, match=r"model.layers.1.self_attn.q_proj is not in LlamaForCausalLM"):
        attach_subspace(AutoModelForCausalLM.from_pretrained(tmp_path / "short"), subspace)


def test_modules_other_than_linear_are_refused(lab: Path) -> None:
    with pytest.raises(UserError, match=r"embed_tokens is a Embedding, expected torch.nn.Linear"):
        get_peft_model(base(lab), SafetySubspaceConfig(target_modules=["embed_tokens"], r=2))


def test_the_second_forward_in_evaluation_computes_no_mask(
    lab: Path, saved: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(lab, saved)
    first = logits_of(model, tokens)
    monkeypatch.setattr("realign_plugin.tuner.layer.effective_tensor", lambda *a, **k: pytest.fail("computed again"))
    assert torch.equal(first, logits_of(model, tokens))


def test_loading_warns_of_nothing(lab: Path, saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded(lab, saved)
