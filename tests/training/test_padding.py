"""Rows of similar length: the groups against brute force, and training in groups against training in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace
from realign_plugin.training import distill_trainer, padding
from realign_plugin.training.answer_head import AnswerHead
from realign_plugin.training.padding import cut, is_plain_text, row_lengths, similar_lengths
from tests.conftest import training_options
from tests.training.test_mask_dpo import losses
from tests.training.test_safety_distill import world  # noqa: F401


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """All ways to split rows into groups."""
    if not rows:
        yield []
        return
    first, *rest = rows
    for some in partitions(rest):
        yield [[first], *some]
        for number, group in enumerate(some):
            yield [*some[:number], [first, *group], *some[number + 1 :]]


def tokens(groups: list[list[int]], lengths: list[int], cost: float) -> float:
    return sum(len(group) * max(lengths[row] for row in group) + cost for group in groups)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.0, 100.0))
def test_no_other_groups_compute_fewer_tokens(lengths: list[int], cost: float) -> None:
    rows = list(range(len(lengths)))
    found = similar_lengths(lengths, cost)
    assert sorted(row for group in found for row in group) == rows
    assert all(group == sorted(group) for group in found)
    best = min(tokens(groups, lengths, cost) for groups in partitions(rows))
    assert tokens(found, lengths, cost) == pytest.approx(best)


def test_rows_stay_together_where_passes_are_dear() -> None:
    assert similar_lengths([10, 100, 12, 98], 1e9) == [[0, 1, 2, 3]]
    assert sorted(similar_lengths([10, 100, 12, 98], 20)) == [[0, 2], [1, 3]]
    assert len(similar_lengths([10, 10, 10], 0.0)) == 1 or tokens([[0, 1, 2]], [10] * 3, 0.0) == 30
    many = similar_lengths([length % 300 + 1 for length in range(0, 7 * 256, 7)], 128)
    assert len(many) > 1


def test_padding_is_cut_and_text_is_not() -> None:
    mask = torch.tensor([[1] * 3 + [0] * 17, [0] * 2 + [1] * 9 + [0] * 9, [1] * 20])
    assert row_lengths(mask) == [8, 16, 20]
    batch = {"input_ids": torch.arange(60).view(3, 20), "attention_mask": mask}
    some = cut(batch, torch.tensor([1, 0]))
    torch.testing.assert_close(some["input_ids"], batch["input_ids"][[1, 0], :16])
    torch.testing.assert_close(some["attention_mask"], mask[[1, 0], :16])


def test_what_is_plain_text() -> None:
    ids, mask = torch.arange(60).view(3, 20), torch.ones(3, 20, dtype=torch.long)
    assert is_plain_text({"input_ids": ids, "attention_mask": mask})
    assert not is_plain_text({"input_ids": ids, "attention_mask": mask, "pixel_values": ids})
    assert not is_plain_text({"input_ids": ids, "attention_mask": torch.zeros(3, 1, 20, 20)})


@pytest.mark.parametrize("axes", [3, 4])
def test_positions_of_multimodal_models_are_cut_with_their_rows(axes: int) -> None:
    ids, mask = torch.arange(80).view(4, 20), torch.ones(4, 20, dtype=torch.long)
    mask[1:, 5:] = 0
    places = torch.arange(axes * 80).view(axes, 4, 20)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "rope_deltas": torch.arange(4)[:, None]}
    assert is_plain_text(batch)
    found = cut(batch, torch.tensor([1, 3]))
    torch.testing.assert_close(found["position_ids"], places[:, [1, 3], :8])
    assert found["rope_deltas"].tolist() == [[1], [3]]


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_training_in_groups_gives_the_same_model(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    checkpointing: bool,
) -> None:
    passes: list[int] = []
    logits = AnswerHead.logits

    def counted(self: AnswerHead, forward: Any, where: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        passes.append(len(where))
        return logits(self, forward, where, others)

    monkeypatch.setattr(AnswerHead, "logits", counted)
    monkeypatch.setattr(padding, "MULTIPLE", 1)  # the rows are short
    ours = {"stage": "safety_distill", "dataset": "safety,skill", "skill_dataset": "skill", "finetuning_type": kind}
    ours |= {"learning_rate": 0.1 if kind == "safety_subspace" else 1e-2, "per_device_train_batch_size": 12}
    ours |= {"max_steps": 3, "distill_first_weight": 5.0, "disable_gradient_checkpointing": not checkpointing}
    for name, cost in (("whole", 1e9), ("groups", 0.0)):
        passes.clear()
        monkeypatch.setattr(distill_trainer, "PASS_TOKENS", cost)
        monkeypatch.setattr(distill_trainer, "MASK_TOKENS", cost)
        run_exp(training_options(world, tmp_path / name, **ours))
        assert sum(passes) == 36
        assert (len(passes) > 3) == (name == "groups")
    assert losses(tmp_path / "groups") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    if kind == "safety_subspace":
        one, two = (SafetySubspace.load(tmp_path / name) for name in ("whole", "groups"))
        for module, pair in one.logits.items():
            for factor in "AB":
                torch.testing.assert_close(two.logits[module][factor], pair[factor], atol=2e-3, rtol=1e-3)
