"""Self-distillation in small batches, accumulated, against the same rows in large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llamafactory.train.tuner import run_exp

from tests.training.test_mask_dpo import history
from tests.training.test_safety_distill import options, world  # noqa: F401


def test_rows_weigh_the_same_in_a_last_batch_that_is_not_full(world: Path, tmp_path: Path) -> None:  # noqa: F811
    """48 rows: 28 and 20, or 14 and 14, 14 and 6."""

    def logged(name: str, **changes: Any) -> list[float]:
        once = {"max_steps": None, "num_train_epochs": 1.0, "mask_keep_weight": 0.5}
        run_exp(options(world, tmp_path / name, **once, **changes))
        steps = [entry for entry in history(tmp_path / name) if "loss" in entry]
        assert len(steps) == 2
        return [step[key] for step in steps for key in ("loss", "grad_norm", "mask/mean")]

    whole = logged("whole", per_device_train_batch_size=28)
    assert logged("parts", per_device_train_batch_size=14, gradient_accumulation_steps=2) == pytest.approx(whole, 1e-4)
