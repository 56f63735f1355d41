"""Adapters between two adapters, and what a candidate costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from realign_plugin.lab.repair.dial import Candidate, can_turn, cost, write_between
from realign_plugin.lab.repair.readings import Reading, Readings, SkillReading
from realign_plugin.subspace.lora_adapters import read_lora
from tests.conftest import make_lora


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_factors_lie_between(lab: Path, tmp_path: Path, strength: float) -> None:
    out = write_between(lab / "task1", lab / "task2", strength, tmp_path / "out")
    one, two, found = (read_lora(path, "x").factors for path in (lab / "task1", lab / "task2", out))
    for module, pair in found.items():
        for factor, tensor in pair.items():
            start, end = one[module][factor].double(), two[module][factor].double()
            assert torch.allclose(tensor.double(), start + strength * (end - start), atol=1e-7)
    assert len(found) == len(one)


def test_peft_loads_what_is_written(lab: Path, tmp_path: Path, base_model: torch.nn.Module) -> None:
    write_between(lab / "task1", lab / "task2", 0.5, tmp_path / "out")
    model = PeftModel.from_pretrained(base_model, tmp_path / "out")
    assert model.peft_config["default"].r == 4


def test_the_dial_needs_the_same_shapes(lab: Path, tmp_path: Path) -> None:
    assert can_turn(lab / "task1", lab / "task2")
    other = make_lora(lab / "base", tmp_path / "other", r=2, lora_alpha=4)
    assert not can_turn(lab / "task1", other)


def readings(agrees: list[bool], benign: list[bool], loss: float) -> Readings:
    def made(values: list[bool]) -> list[Reading]:
        return [Reading(refuses=True, incoherent=False, agrees=value) for value in values]

    skill = [SkillReading(tokens=10, correct=5, loss=10 * loss, divergence=0.0)] * 3
    return Readings(harmful=made(agrees), benign=made(benign), skill=skill)


def test_cost_is_disagreement_and_the_share_of_the_skill_lost() -> None:
    aligned, tuned = readings([True] * 4, [True] * 4, 3.0), readings([False] * 4, [True] * 4, 1.0)
    assert cost(tuned, aligned, tuned).model_dump() == {"harmful": 1.0, "benign": 0.0, "skill": 0.0}
    assert cost(aligned, aligned, tuned).model_dump() == {"harmful": 0.0, "benign": 0.0, "skill": 1.0}
    found = cost(readings([True, True, True, False], [True, False, True, True], 1.5), aligned, tuned)
    assert found.model_dump() == pytest.approx({"harmful": 0.25, "benign": 0.25, "skill": 0.25})
    assert found.total == pytest.approx(0.75)
    better = cost(readings([True], [True], 0.5), aligned, tuned)
    assert better.skill == 0.0, "a loss below the fine-tuned model's is no loss of skill"


def test_names_have_no_points() -> None:
    assert Candidate("masks", 0.75).name == "masks-75"


def test_refusing_less_harm_or_more_that_is_harmless_costs_extra() -> None:
    def made(harmful: int, benign: int) -> Readings:
        def some(count: int, right: int) -> list[Reading]:
            return [Reading(refuses=n < count, incoherent=False, agrees=(n < count) == (n < right)) for n in range(10)]

        return Readings(harmful=some(harmful, 6), benign=some(benign, 4), skill=[])

    aligned = made(6, 4)
    assert cost(made(4, 4), aligned, aligned).harmful == pytest.approx(0.4)
    assert cost(made(8, 4), aligned, aligned).harmful == pytest.approx(0.2)
    assert cost(made(6, 6), aligned, aligned).benign == pytest.approx(0.4)
    assert cost(made(6, 2), aligned, aligned).benign == pytest.approx(0.2)
