"""Pico models in bf16 and fp32, merged in this process through mergekit's own ``run_merge``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from realign_plugin import SafetySubspace
from tests.conftest import make_fine_tuned, make_llama, make_lora, make_tokenizer, with_random_logits

Merge = Callable[..., dict[str, torch.Tensor]]


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bf16/`` and ``fp32/``, each with a base, an aligned adapter, two task adapters and two fine-tuned models."""
    root = tmp_path_factory.mktemp("yard")
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        home = root / name
        make_llama(home / "base", dtype=dtype)
        make_tokenizer(home / "base")
        make_lora(home / "base", home / "aligned")
        for number in (1, 2):
            make_lora(home / "base", home / f"task{number}", start=home / "aligned", seed=10 + number)
            make_fine_tuned(home / "base", home / f"full{number}", seed=30 + number, shard="20KB")
    return root


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Runs a configuration and gives the merged tensors; keywords are mergekit's options."""

    def run(config: dict[str, Any], out: Path | None = None, **options: Any) -> dict[str, torch.Tensor]:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        target = out or tmp_path / "merged"
        given = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config)))
        run_merge(given, str(target), MergeOptions(quiet=True, **options))
        return state_of(target)

    return run


def configuration(home: Path, adapter: Path, *models: Path, **parameters: Any) -> dict[str, Any]:
    """A configuration of ``safety_subspace``; without models, the base alone."""
    return {
        "merge_method": "safety_subspace",
        "base_model": str(home / "base"),
        "models": [{"model": str(path)} for path in models or (home / "base",)],
        "parameters": {"adapter": str(adapter)} | parameters,
    }


@pytest.fixture
def adapter(yard: Path, tmp_path: Path) -> Path:
    home = yard / "fp32"
    subspace = SafetySubspace.from_adapters(home / "aligned", [home / "task1"])
    from realign_plugin.subspace.fingerprints import fingerprint

    subspace.spec.base_sha256 = fingerprint(home / "base", list(subspace.logits))
    return with_random_logits(subspace).save(tmp_path / "adapter")
