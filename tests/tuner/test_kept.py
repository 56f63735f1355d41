"""What layers keep, and changes that versions do not tell of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, attach_subspace
from realign_plugin.tuner.kept import Kept, fingerprint
from tests.conftest import logits_of, with_random_logits


def shapes() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator) for shape in ((40, 33), (1, 7), (3, 1), (600, 2), (1, 1))]
    return [*made, made[0].bfloat16(), made[1].half(), made[3].double(), made[0].t(), made[0].bfloat16()[1:, 3:]]


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.view(-1)[-1].add_(0.01),
        lambda t: t.neg_(),
        lambda t: t.mul_(1.01),
        lambda t: t.copy_(t.flip(0).flip(1)),
        lambda t: t.copy_(t.roll(1, 0)),
        lambda t: t.copy_(t.roll(1, 1)),
        lambda t: t.view(-1)[:2].copy_(t.view(-1)[:2].flip(0)),
    ],
)
def test_other_bits_and_other_places_give_another_number(edit: Callable[[torch.Tensor], Any]) -> None:
    for tensor in shapes():
        changed = tensor.clone().contiguous()
        assert torch.equal(fingerprint([changed]), fingerprint([tensor]))
        edit(changed)
        same = torch.equal(changed, tensor)  # as a column turned over its one row is
        assert not same or tensor.shape in ((3, 1), (1, 1), (1, 7), (600, 2))
        assert torch.equal(fingerprint([changed]), fingerprint([tensor])) == same


def test_the_order_of_tensors_counts() -> None:
    one, two = shapes()[:2]
    assert not torch.equal(fingerprint([one, two]), fingerprint([two, one]))


@pytest.mark.parametrize("space", ["lora", "element", "row", "ties"])
def test_edits_through_data_are_seen(
    lab: Path, models: list[Path], tokens: torch.Tensor, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if space == "lora":
        subspace = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"])
    else:
        kind = {"fusion_method": "ties"} if space == "ties" else {"mask_granularity": space}
        subspace = SafetySubspace.from_models(lab / "base", models[:2], target="q_proj,down_proj", **kind)
    model = attach_subspace(AutoModelForCausalLM.from_pretrained(lab / "base"), with_random_logits(subspace)).eval()

    def inner() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model.base_model.model(input_ids=tokens).logits
        return found

    def generated() -> torch.Tensor:
        options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True, "do_sample": False}
        found: torch.Tensor = model.generate(input_ids=tokens, **options).logits[0]
        return found

    for call in (lambda: logits_of(model, tokens), inner, generated):
        for name in ("logits", "deltas"):
            before = call()
            assert torch.equal(before, call())
            for layer in model.base_model.layers():
                for factor in layer.specs["default"].factors:
                    logits, _, deltas = layer.parts("default", factor)
                    edited = logits if name == "logits" else deltas
                    version = edited._version
                    edited.data.copy_(edited.data.flip(-2) * 1.5)
                    assert edited._version == version
            after = call()
            assert (after - before).abs().max() > 1e-3
            for layer in model.base_model.layers():
                layer.kept.forget()
            assert torch.equal(after, call())


def test_contents_are_read_once_a_call_and_not_for_every_token(
    lab: Path, subspace: SafetySubspace, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach_subspace(AutoModelForCausalLM.from_pretrained(lab / "base"), subspace).eval()
    logits_of(model, tokens)
    read: list[int] = []
    monkeypatch.setattr("realign_plugin.tuner.kept.fingerprint", lambda t: read.append(1) or fingerprint(t))
    model.generate(input_ids=tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert len(read) == 8  # four modules, two factors


def test_a_deleted_adapter_leaves_nothing(lab: Path, subspace: SafetySubspace, tokens: torch.Tensor) -> None:
    model = attach_subspace(AutoModelForCausalLM.from_pretrained(lab / "base"), subspace).eval()
    logits_of(model, tokens)
    model.add_adapter("other", model.peft_config["default"])
    model.delete_adapter("default")
    assert not any(layer.kept._entries for layer in model.base_model.layers())
    assert isinstance(next(model.base_model.layers()).kept, Kept)
