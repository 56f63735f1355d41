"""Teachers whose output heads differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from realign_plugin.training.answer_head import answer_positions
from tests.training.test_safety_distill import one_step, world  # noqa: F401


@pytest.fixture
def task(world: Path, tmp_path: Path) -> Path:  # noqa: F811
    """An adapter of the head alone: both teachers' hidden states are the same."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(world / "base"), config)
    model.save_pretrained(tmp_path / "task", save_embedding_layers=False)
    return tmp_path / "task"


def test_each_teacher_has_its_own_head(world: Path, tmp_path: Path, task: Path) -> None:  # noqa: F811
    given = {"aligned_adapter": None, "task_adapters": [str(task)]}
    ones, zeros = (
        one_step(world, tmp_path / str(init), mask_init=init, mask_noise=0.0, **given) for init in (30, -30)
    )
    assert ones["kl/fine_tuned"] <= 1e-6
    assert ones["kl/aligned"] > 1e-2
    assert zeros["kl/aligned"] <= 1e-6
    assert zeros["kl/fine_tuned"] > 1e-2
    lora = one_step(world, tmp_path / "lora", finetuning_type="lora", **given)
    assert lora["kl/fine_tuned"] <= 1e-6
    assert lora["kl/aligned"] == pytest.approx(ones["kl/aligned"], rel=1e-4)


def test_only_the_last_answer_counts() -> None:
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7, 8, 2], [-100, 4, -100, -100, -100, 9, 2, -100], [-100] * 8])
    found = answer_positions(labels)
    assert found.int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0] * 8]
