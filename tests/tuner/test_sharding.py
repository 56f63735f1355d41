"""Parameters of which each process holds a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace
from realign_plugin.subspace import SafetySubspace
from realign_plugin.tuner import attach_subspace
from realign_plugin.tuner.sharding import is_sharded, whole, write_whole
from tests.conftest import logits_of, with_random_logits
from tests.tuner import two_ranks


@pytest.mark.cli
def test_two_processes_hold_one_subspace(
    lab: Path, models: list[Path], tmp_path: Path, run_stock: Callable[..., Any]
) -> None:
    adapters = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"])
    weights = SafetySubspace.from_models(
        lab / "base", models[:1], target="q_proj,down_proj", mask_granularity="element"
    )
    saved = [with_random_logits(s).save(tmp_path / s.spec.vector_space) for s in (adapters, weights)]
    script = Path(__file__).parent / "two_ranks.py"
    words = ["--standalone", "--nproc-per-node", 2, script, lab / "base", *saved]
    result = run_stock("torchrun", *words, env={"PYTHONPATH": str(script.parent.parent.parent)})
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("as one") == 4
    for folder in saved:  # the first of several processes draws what a single one does
        model = attach_subspace(AutoModelForCausalLM.from_pretrained(lab / "base"), SafetySubspace.load(folder))
        alone = two_ranks.gradient(model, torch.randint(6, 60, (2, 12), generator=torch.Generator().manual_seed(5)))
        torch.testing.assert_close(alone, load_file(folder / "first_gradient.safetensors")["gradient"])


def test_whole_tensors_are_left_alone() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    assert whole(parameter) is parameter
    assert not is_sharded(parameter)
    write_whole(parameter, torch.ones(2, 3))
    assert bool((parameter == 1).all())


def test_parameters_written_behind_their_versions_are_seen(
    base_model: Any, subspace: SafetySubspace, tokens: torch.Tensor
) -> None:
    model = attach_subspace(base_model, subspace).eval()
    before = logits_of(model, tokens)
    model.train()
    for logits in model.base_model.logits():
        version = logits._version
        logits.data.add_(torch.linspace(-3, 3, logits.numel()).view_as(logits))  # as DeepSpeed's optimiser does
        assert logits._version == version
    after = logits_of(model.eval(), tokens)
    assert (after - before).abs().max() > 1e-3
    for layer in model.base_model.layers():
        layer.kept.forget()
    torch.testing.assert_close(logits_of(model, tokens), after, rtol=0, atol=0)
