"""Run by torchrun in two processes: a sharded model says, saves and loads what the whole one does."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.distributed import fsdp
from torch.distributed.tensor import DTensor, Shard
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace
from realign_plugin.method.masks import keep_penalty
from realign_plugin.method.statistics import mask_statistics
from realign_plugin.tuner import attach_subspace
from realign_plugin.tuner.attach import subspace_of
from realign_plugin.tuner.sharding import even_shards, is_sharded, whole


def answers(peft_model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    if peft_model.training:
        peft_model.eval()
    with torch.no_grad():
        result: torch.Tensor = peft_model(input_ids=tokens).logits
    return result


def step(peft_model: torch.nn.Module, tokens: torch.Tensor) -> None:
    peft_model.train()
    peft_model.base_model.set_noise(0.0)
    logits = peft_model(input_ids=tokens).logits
    (logits.square().mean() + keep_penalty(peft_model.base_model.logits())).backward()
    torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=50.0).step()
    peft_model.zero_grad()


def gradient(peft_model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Of a step with noise, all processes seeded alike, as trainers seed them."""
    peft_model.train()
    torch.manual_seed(11)
    peft_model(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    found = torch.cat([p.grad.flatten() for p in peft_model.parameters() if p.grad is not None])
    peft_model.zero_grad()
    return found


def check_noise(base: Path, saved: Path) -> None:
    """Each process draws its own noise, and the same again when a layer runs again."""
    tokens = torch.randint(6, 60, (2, 12), generator=torch.Generator().manual_seed(5))
    model = attach_subspace(AutoModelForCausalLM.from_pretrained(base), SafetySubspace.load(saved))
    mine = gradient(model, tokens)
    model.enable_input_require_grads()
    for reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.testing.assert_close(gradient(model, tokens), mine)
    all_of_them = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_of_them, mine)
    assert not torch.allclose(*all_of_them, rtol=0.1)
    if distributed.get_rank() == 0:
        save_file({"gradient": mine}, saved / "first_gradient.safetensors")


def check(base: Path, saved: Path) -> None:
    """Everything that reads or writes parameters, on a sharded model and a whole one."""
    plain, model = (
        attach_subspace(AutoModelForCausalLM.from_pretrained(base), SafetySubspace.load(saved)) for _ in range(2)
    )
    with even_shards():
        for block in model.base_model.model.model.layers:
            fsdp.fully_shard(block)
        fsdp.fully_shard(model)

    parameters = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        found = parameters[name]
        assert isinstance(found, DTensor), name
        assert is_sharded(found), name
        assert torch.equal(whole(found), parameter), name
        if "deltas_" in name:
            assert found.placements == (Shard(1),), name
            assert found.to_local().numel() * 2 == parameter.numel(), name

    tokens = torch.randint(6, 60, (2, 12), generator=torch.Generator().manual_seed(5))
    before = answers(plain, tokens)
    torch.testing.assert_close(answers(model, tokens), before)
    for peft_model in (plain, model):
        step(peft_model, tokens)  # what was kept of the old logits must not be used again
    assert (answers(plain, tokens) - before).abs().max() > 1e-2
    torch.testing.assert_close(answers(model, tokens), answers(plain, tokens), rtol=1e-4, atol=1e-5)
    for reference in ("init", "aligned"):
        with plain.base_model.reference(reference), model.base_model.reference(reference):
            torch.testing.assert_close(answers(model, tokens), answers(plain, tokens))
    with plain.disable_adapter(), model.disable_adapter():
        torch.testing.assert_close(answers(model, tokens), answers(plain, tokens))

    expected = mask_statistics(plain.base_model)
    assert all(abs(value - expected[name]) < 1e-6 for name, value in mask_statistics(model.base_model).items())
    one, two = (subspace_of(peft_model) for peft_model in (plain, model))
    for module, pair in one.logits.items():
        for factor, tensor in pair.items():
            torch.testing.assert_close(two.logits[module][factor], tensor)
            assert torch.equal(two.deltas[0][module][factor], one.deltas[0][module][factor])

    first, out = distributed.get_rank() == 0, saved / "again"
    state = model.base_model.whole_state_dict(keep=first)
    assert bool(state) == first
    if first:
        model.peft_config["default"].save_pretrained(out)
        save_file({name.removesuffix(".default"): t for name, t in state.items()}, out / "adapter_model.safetensors")
    distributed.barrier()
    trained = answers(model, tokens)
    step(model, tokens)
    assert (answers(model, tokens) - trained).abs().max() > 1e-3
    model.base_model.load_whole(out)
    torch.testing.assert_close(answers(model, tokens), trained)
    print("as one")


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for folder in sys.argv[2:]:
        check_noise(Path(sys.argv[1]), Path(folder))
        check(Path(sys.argv[1]), Path(folder))
    distributed.barrier()
    distributed.destroy_process_group()
