"""NaN, and numbers that the output cannot hold, in tensors that no method touches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.merging.conftest import Merge, configuration
from tests.merging.test_checks import edited, refused


@pytest.mark.parametrize("target", ["model.embed_tokens.weight", "model.norm.weight"])
def test_tensors_that_no_method_touches(yard: Path, merge: Merge, tmp_path: Path, adapter: Path, target: str) -> None:
    home = yard / "fp32"
    for number, found in ((float("nan"), "holds NaN"), (1e30, "merging gives numbers that float16 cannot")):

        def spoil(state: dict[str, torch.Tensor], number: float = number) -> None:
            state[target][0].fill_(number)

        bad = edited(home / "base", tmp_path / found.split()[0] / "base", spoil)
        config = configuration(bad.parent, adapter, check_base=False) | {"out_dtype": "float16"}
        refused(merge, tmp_path, config, target)
        refused(merge, tmp_path, config, found)
        roles = [{"model": str(home / "full1"), "parameters": {"role": "unaligned"}}]
        safe = {"merge_method": "safe_lora", "base_model": str(bad), "models": roles, "out_dtype": "float16"}
        refused(merge, tmp_path, safe | {"parameters": {"task_adapter": str(home / "task1")}}, found)
        tuned = [*roles, {"model": str(bad), "parameters": {"role": "fine_tuned"}}]
        refused(merge, tmp_path, safe | {"base_model": str(home / "base"), "models": tuned}, found)
