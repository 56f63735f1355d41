"""Beyond plain Llama: experts in one tensor or as modules, fused projections, Conv1D, a model that also sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from realign_plugin import SafetySubspace, UserError, attach_subspace
from tests.conftest import logits_of, with_random_logits

SIZES = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.2, "pad_token_id": 0}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}


class Experts(nn.Module):
    """Experts that are modules of their own, as in models written for earlier versions of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(32, 3, bias=False)
        self.experts = nn.ModuleList(
            [nn.ModuleDict({"w1": nn.Linear(32, 48), "w2": nn.Linear(48, 32)}) for _ in "123"]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.router(x).softmax(-1)
        answers = [expert["w2"](expert["w1"](x).relu()) for expert in self.experts]
        return sum(shares[..., n : n + 1] * answer for n, answer in enumerate(answers))  # type: ignore[return-value]


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **LAYERS, **experts))


def modules_of_experts() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SIZES, **LAYERS))
    for layer in model.model.layers:
        layer.mlp = Experts()
    return model


def gpt_neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **LAYERS))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=80, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0))


def qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**SIZES, **LAYERS, "num_key_value_heads": 2, "rope_parameters": rope, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 4}
    special = {"image_token_id": 70, "video_token_id": 71, "vision_start_token_id": 72, "vision_end_token_id": 73}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **special))


Case = tuple[Callable[[], Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "experts in one tensor": (mixtral, {"target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]}),
    "experts and attention": (mixtral, {"target_parameters": ["experts.down_proj"], "target_modules": ["q_proj"]}),
    "experts that are modules": (modules_of_experts, {"target_modules": ["w1", "w2"]}),
    "fused qkv": (gpt_neox, {"target_modules": ["query_key_value", "dense_h_to_4h"]}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "a multimodal model": (qwen2_vl, {"target_modules": r".*language_model.*\.(q_proj|down_proj)"}),
}


class World:
    """A base model, an aligned and a fine-tuned adapter of it."""

    def __init__(self, case: str, root: Path) -> None:
        self.make, options = CASES[case]
        self.options = {"r": 2, "lora_alpha": 6, "target_modules": [], "task_type": "CAUSAL_LM"} | options
        self.root = root
        for name, seed in (("aligned", 1), ("tuned", 2)):
            model = get_peft_model(self.base(), LoraConfig(**self.options))
            generator = torch.Generator().manual_seed(seed)
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
            model.save_pretrained(root / name)

    def base(self) -> Any:
        torch.manual_seed(0)
        return self.make().eval()

    def subspace(self, **options: Any) -> SafetySubspace:
        return SafetySubspace.from_adapters(self.root / "aligned", [self.root / "tuned"], **options)


@pytest.fixture(params=CASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return bool((one - two).abs().max() <= 1e-5 * max(1.0, float(two.abs().max())))


def test_the_whole_way_is_exact(world: World, tokens: torch.Tensor) -> None:
    """Ones are the fine-tuned model, zeros the aligned one; export, merge and reload give what forward does."""
    plain, aligned, tuned = (
        world.base(),
        *(PeftModel.from_pretrained(world.base(), world.root / n) for n in ("aligned", "tuned")),
    )
    expected = {
        name: logits_of(model.eval(), tokens) for name, model in zip("bat", (plain, aligned, tuned), strict=True)
    }
    assert not close(expected["a"], expected["t"])
    subspace = with_random_logits(world.subspace())
    model = attach_subspace(world.base(), subspace).eval()
    with model.base_model.reference("init"):
        assert close(logits_of(model, tokens), expected["t"])
    with model.base_model.reference("aligned"):
        assert close(logits_of(model, tokens), expected["a"])
    with model.disable_adapter():
        assert torch.equal(logits_of(model, tokens), expected["b"])
    masked = logits_of(model, tokens)
    assert not close(masked, expected["t"])

    model.save_pretrained(world.root / "saved")
    loaded = SafetySubspace.load(world.root / "saved")
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in subspace.state_dict().items())
    again = PeftModel.from_pretrained(world.base(), world.root / "saved").eval()
    assert torch.equal(logits_of(again, tokens), masked)
    loaded.to_lora(world.root / "lora")
    assert close(logits_of(PeftModel.from_pretrained(world.base(), world.root / "lora").eval(), tokens), masked)

    again.merge_adapter()
    assert close(logits_of(again, tokens), masked)
    again.unmerge_adapter()
    assert torch.equal(logits_of(again, tokens), masked)
    merged = again.merge_and_unload()
    assert type(merged) is type(plain)
    assert close(logits_of(merged, tokens), masked)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_masks_are_trained(world: World, tokens: torch.Tensor) -> None:
    model = attach_subspace(world.base(), world.subspace()).train()
    one, two = (model(input_ids=tokens).logits for _ in range(2))
    assert not torch.equal(one, two)  # a draw in each forward
    model(input_ids=tokens, labels=tokens).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(world.subspace().logits)
    assert all("logits_" in name for name in trained)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in trained.values())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient_of_experts(tmp_path: Path, tokens: torch.Tensor, reentrant: bool) -> None:
    world, found = World("experts in one tensor", tmp_path), []
    for checkpointed in (False, True):
        base = world.base()
        if checkpointed:
            base.gradient_checkpointing_enable({"use_reentrant": reentrant})
            base.enable_input_require_grads()
        model = attach_subspace(base, world.subspace()).train()
        torch.manual_seed(1)
        model(input_ids=tokens, labels=tokens).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-7) for name in found[0])


def test_experts_follow_pefts_layout_of_names(tmp_path: Path) -> None:
    subspace = World("experts in one tensor", tmp_path).subspace()
    experts = "model.layers.0.mlp.experts"
    assert subspace.spec.parameters[experts][0] == 3
    assert set(subspace.spec.parameters) == set(subspace.logits)
    assert subspace.spec.target_modules == []
    assert {experts, f"{experts}.base_layer"} < set(subspace.logits)
    assert subspace.spec.scaling(experts) == 3.0


def refused(words: str, act: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=words) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, tokens: torch.Tensor) -> None:
    world = World("experts in one tensor", tmp_path)
    world.subspace().save(tmp_path / "saved")
    model = attach_subspace(world.base(), world.subspace()).eval()
    refused("expected the only adapter", lambda: model.load_adapter(tmp_path / "saved", "second"))
    refused("expected one adapter for the whole batch", lambda: model(input_ids=tokens, adapter_names=["default"] * 2))
    other = CASES["fused qkv"][0]()
    refused("is not in GPTNeoX", lambda: PeftModel.from_pretrained(other, tmp_path / "saved"))
    patterns = world.options | {"rank_pattern": {"down_proj": 4}}
    get_peft_model(world.base(), LoraConfig(**patterns)).save_pretrained(tmp_path / "patterns")
    refused("expected one rank and alpha", lambda: SafetySubspace.from_adapters(None, [tmp_path / "patterns"]))


def test_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    world = World("experts in one tensor", tmp_path)
    base = world.base()
    base.model.layers[0].mlp.experts.down_proj = nn.Parameter(torch.zeros(4, 32, 48))
    refused(r"down_proj has shape \(4, 32, 48\), trained for", lambda: attach_subspace(base, world.subspace()))


def test_mergekit_refuses_what_it_cannot_merge(tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    from realign_plugin.merging.sources import lora, subspace

    for name, reason in (("Conv1D", "fan_in_fan_out"), ("experts in one tensor", "target_parameters")):
        folder = tmp_path / reason
        folder.mkdir()
        World(name, folder).subspace().save(folder / "saved")
        refused(f"has {reason}, whose tensors", lambda folder=folder: subspace(str(folder / "saved")))
    refused("target_parameters: .* expected LoRA on", lambda: lora(str(folder / "tuned"), "adapter"))
