"""Models that accelerate offloads, and the copies that nn.DataParallel makes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from torch import nn
from torch.nn.parallel import replicate
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError, attach_subspace
from tests.conftest import logits_of, with_random_logits
from tests.tuner.test_architectures import World


@pytest.fixture(params=["lora", "ties", "weight", "rows"])
def made(request: pytest.FixtureRequest, lab: Path, models: list[Path]) -> SafetySubspace:
    if request.param in ("lora", "ties"):
        fusion = {"fusion_method": "ties"} if request.param == "ties" else {}
        return with_random_logits(
            SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"], **fusion)
        )
    kind: Any = {"mask_granularity": "row"} if request.param == "rows" else {}
    return with_random_logits(SafetySubspace.from_models(lab / "base", models[:1], target="q_proj,v_proj", **kind))


def base(lab: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lab / "base").eval()


def test_offloaded_layers_fetch_what_they_need(lab: Path, made: SafetySubspace, tokens: torch.Tensor) -> None:
    expected = logits_of(attach_subspace(base(lab), made).eval(), tokens)
    model = attach_subspace(base(lab), made).eval()
    logits_of(model, tokens)  # what is kept of the time before holds no memory
    cpu_offload(model, execution_device=torch.device("cpu"))
    for _ in range(2):
        assert torch.equal(logits_of(model, tokens), expected)
    model.generate(input_ids=tokens, max_new_tokens=2, do_sample=False)
    for layer in model.base_model.layers():
        assert all(parameter.is_meta for parameter in layer.parameters())
        assert not layer.kept._entries
    model.merge_adapter()
    assert torch.allclose(logits_of(model, tokens), expected, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(logits_of(model, tokens), logits_of(base(lab), tokens))


def test_offloaded_to_disk(lab: Path, made: SafetySubspace, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = attach_subspace(base(lab), made).eval()
    expected = logits_of(model, tokens)
    stem = "base_model.model."
    places = {"model.layers.1": "disk"} | dict.fromkeys(("model.layers.0", "model.embed_tokens", "model.norm"), "cpu")
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(model, {stem + name: place for name, place in places.items()}, offload_dir=tmp_path)
    assert torch.equal(logits_of(model, tokens), expected)


def test_a_base_model_that_is_offloaded_already(lab: Path, made: SafetySubspace, tokens: torch.Tensor) -> None:
    expected = logits_of(attach_subspace(base(lab), made).eval(), tokens)
    model = base(lab)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(logits_of(attach_subspace(model, made).eval(), tokens), expected)


def test_what_offloading_rules_out(lab: Path, made: SafetySubspace, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = attach_subspace(base(lab), made).train()
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(UserError, match=r"its mask is offloaded by accelerate, expected one that stays on its device"):
        model(input_ids=tokens)
    with pytest.raises(UserError, match=r"is offloaded by accelerate, expected parameters that can be written to"):
        model.base_model.fill(made)


def test_tensors_that_were_never_loaded(lab: Path, made: SafetySubspace, tokens: torch.Tensor) -> None:
    model = attach_subspace(base(lab), made).eval()
    for layer in model.base_model.layers():
        for name in (*layer.adapter_layer_names, *layer.frozen_names):
            getattr(layer, name).to("meta")
    with pytest.raises(UserError, match=r"of 'default' is on the meta device, expected tensors with numbers"):
        logits_of(model, tokens)


def test_offloaded_experts_are_refused(tmp_path: Path, tokens: torch.Tensor) -> None:
    world = World("experts in one tensor", tmp_path)
    model = attach_subspace(world.base(), world.subspace()).eval()
    cpu_offload(model, execution_device=torch.device("cpu"))
    for call in (lambda: logits_of(model, tokens), model.merge_adapter):
        with pytest.raises(
            UserError, match=r"target_parameters: .*_proj is offloaded by accelerate, expected it on a"
        ):
            call()


def copied(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One of nn.DataParallel's copies, without a GPU."""

    def broadcast(tensors: Any, devices: Any, detach: bool = False) -> Any:
        return [[tensor.detach() if detach else tensor * 1 for tensor in tensors]]

    module = sys.modules[replicate.__module__]  # torch's package has the function under the same name
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", broadcast)
    monkeypatch.setattr(module, "_get_device_index", lambda device, _: device)
    return replicate(model, ["cpu"])[0]


@pytest.mark.parametrize("training", [True, False])
def test_copies_of_data_parallel(
    lab: Path, made: SafetySubspace, tokens: torch.Tensor, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach_subspace(base(lab), made).train(training)
    outputs, gradients = [], []
    for one in (model, copied(model, monkeypatch)):
        torch.manual_seed(1)
        found = one(input_ids=tokens, labels=tokens)
        if training:
            model.zero_grad()
            found.loss.backward()
            gradients.append([parameter.grad.clone() for parameter in model.base_model.logits()])
        outputs.append(found.logits)
    assert torch.equal(*outputs)
    assert all(torch.equal(*pair) and pair[0].any() for pair in zip(*gradients, strict=True))


def test_copies_keep_nothing(lab: Path, made: SafetySubspace, tokens: torch.Tensor, monkeypatch: Any) -> None:
    """Their tensors live for one call, in memory that the next call's get again."""
    model = attach_subspace(base(lab), made).eval()
    copy = copied(model, monkeypatch)
    logits_of(copy, tokens)
    assert not any(layer.kept._entries for one in (model, copy) for layer in one.base_model.layers())


def test_copies_of_experts(tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("experts in one tensor", tmp_path)
    model = attach_subspace(world.base(), with_random_logits(world.subspace())).eval()
    assert torch.equal(logits_of(copied(model, monkeypatch), tokens), logits_of(model, tokens))
