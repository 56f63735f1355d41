"""Each file in mergekit_configs/ runs, on pico models put where it looks for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from realign_plugin import SafetySubspace
from tests.conftest import make_fine_tuned, make_lora, with_random_logits
from tests.merging.conftest import state_of

CONFIGS = Path(__file__).parents[2] / "mergekit_configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture(scope="module")
def place(yard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with everything that the files name, under ``models/``."""
    root = tmp_path_factory.mktemp("place")
    home, models = yard / "fp32", root / "models"
    models.mkdir()
    for name, source in {
        "base": "base", "aligned": "base", "aligned-lora": "aligned", "finetuned-lora": "task1", "safe-lora": "task2",
        "finetuned-2-lora": "task2",
        "finetuned-1": "full1", "finetuned-2": "full2",
    }.items():  # fmt: skip
        shutil.copytree(home / source, models / name)
    make_fine_tuned(home / "base", models / "unaligned", seed=9)
    make_lora(home / "base", models / "instruct-lora", seed=4)
    tasks = [models / "finetuned-lora", models / "safe-lora"]
    with_random_logits(SafetySubspace.from_adapters(models / "aligned-lora", tasks)).save(models / "subspace")
    full = [models / "finetuned-1", models / "finetuned-2"]
    with_random_logits(SafetySubspace.from_models(models / "aligned", full)).save(models / "subspace-weight")
    return root


@pytest.mark.parametrize("file", [f for f in FILES if f.name != "multi.yaml"], ids=lambda f: f.stem)
def test_every_file_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    monkeypatch.chdir(place)
    text = file.read_text(encoding="utf-8")
    assert "arXiv" in text
    cache = tmp_path / "cache" if "--lora-merge-cache" in text else None
    options = MergeOptions(quiet=True, random_seed=0, lora_merge_cache=str(cache) if cache else None)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(tmp_path / "out"), options)
    merged, base = state_of(tmp_path / "out"), state_of(place / "models" / "base")
    assert merged.keys() == base.keys()
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())
    assert any(not torch.equal(tensor, base[name]) for name, tensor in merged.items())


def test_resta_is_what_its_formula_says(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    monkeypatch.chdir(place)
    config = MergeConfiguration.model_validate(yaml.safe_load((CONFIGS / "resta.yaml").read_text()))
    run_merge(config, str(tmp_path / "out"), MergeOptions(quiet=True))
    tuned, aligned, before = (state_of(place / "models" / n) for n in ("finetuned-1", "aligned", "unaligned"))
    for name, tensor in state_of(tmp_path / "out").items():
        assert torch.allclose(tensor, tuned[name] + 0.5 * (aligned[name] - before[name]), atol=1e-6)


@pytest.mark.cli
def test_several_merges_in_one_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_stock: Callable[..., Any]
) -> None:
    monkeypatch.chdir(place)
    words = ["--intermediate-dir", tmp_path / "work", "--out-path", tmp_path / "out"]
    result = run_stock("mergekit-multi", CONFIGS / "multi.yaml", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    half, whole, base = (
        state_of(p) for p in (tmp_path / "out", tmp_path / "work" / "realigned", place / "models" / "base")
    )
    for name, tensor in half.items():
        assert torch.allclose(tensor, (whole[name] + base[name]) / 2, atol=1e-6)
    assert os.listdir(tmp_path / "work") == ["realigned"]


def test_the_table_names_every_file() -> None:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert not [file.name for file in FILES if f"`{file.name}`" not in text]
