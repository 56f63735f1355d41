"""A trained mask on another task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.transfer import transfer
from tests.conftest import make_lora


def test_transfer_is_the_mask_on_the_other_vector(lab: Path, subspace: Any) -> None:
    moved = transfer(subspace, lab / "task3", 0.7)
    direct = SafetySubspace.from_adapters(lab / "aligned", [lab / "task3"], task_weight=0.7)
    direct.logits = subspace.logits
    for module, pair in direct.effective("binary").items():
        for factor, tensor in pair.items():
            assert torch.equal(moved.effective("binary")[module][factor], tensor)
    assert [(s["role"], s["name"]) for s in moved.spec.sources] == [
        ("aligned", "aligned"),
        ("mask", "task1"),
        ("mask", "task2"),
        ("task", "task3"),
    ]
    assert moved.spec.task_weights == [0.7]
    assert transfer(subspace, lab / "task3").spec.task_weights == [1.0]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number(lab: Path, subspace: Any, weight: float) -> None:
    with pytest.raises(UserError, match=rf"^task_weight: {weight} is not a finite number, expected a number or"):
        transfer(subspace, lab / "task3", weight)


def test_transfer_to_what_does_not_fit(lab: Path, models: list[Path], subspace: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task_adapter: .* equals"):
        transfer(subspace, lab / "aligned")
    other = make_lora(lab / "base", tmp_path / "r8", r=8)
    with pytest.raises(UserError, match=r"task_adapter: rank 8 of .* differs from the subspace's 4"):
        transfer(subspace, other)
    whole = SafetySubspace.from_models(lab / "base", models[:1], target="q_proj")
    with pytest.raises(UserError, match=r"the subspace works on whole weights, expected one in LoRA space"):
        transfer(whole, lab / "task1")
