"""The training files in examples/train run, with nothing replaced but paths, data, template and length."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace
from realign_plugin.training.preflight import check_options

FILES = sorted((Path(__file__).parent.parent.parent / "examples" / "train").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_options_mean_something(file: Path) -> None:
    options = yaml.safe_load(file.read_text())
    assert check_options(options).mask == "binary"
    assert f"examples/train/{file.name}" in file.read_text()


@pytest.mark.parametrize("file", [f for f in FILES if "qlora" not in f.stem], ids=lambda file: file.stem)
def test_the_file_runs(lab: Path, tmp_path: Path, file: Path) -> None:
    options = yaml.safe_load(file.read_text())
    paths = {
        "model_name_or_path": str(lab / "base"),
        "task_adapters": [str(lab / f"task{i + 1}") for i in range(len(options["task_adapters"]))],
        "dataset": "pairs",
        "dataset_dir": str(lab),
        "output_dir": str(tmp_path / "run"),
        "val_size": 0.25,
        "max_steps": 2,
        "eval_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if "aligned_adapter" in options:
        paths["aligned_adapter"] = str(lab / "aligned")
    options.pop("template")
    run_exp(options | paths)
    subspace = SafetySubspace.load(tmp_path / "run")
    assert len(subspace.spec.task_weights) == len(options["task_adapters"])
    assert bool(subspace.aligned) == ("aligned_adapter" in options)
