"""A base model of the same shape, but with other weights, than the one that adapters were trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from llamafactory.hparams import get_infer_args, get_train_args

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.fingerprints import record_base
from tests.conftest import make_lora, make_tied, training_options

OTHER = r"model_name_or_path: .*full1 is not the model that .*trained was trained on \(sha256 of its weights: "


@pytest.fixture
def trained(lab: Path, tmp_path: Path) -> Path:
    """A subspace that knows its base."""
    subspace = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"])
    record_base(subspace.spec, lab / "base")
    return subspace.save(tmp_path / "trained")


@pytest.mark.parametrize("export", [False, True])
def test_chat_and_export(lab: Path, models: list[Path], trained: Path, tmp_path: Path, export: bool) -> None:
    options: dict[str, Any] = {"adapter_name_or_path": str(trained), "template": "default"}
    options |= {"export_dir": str(tmp_path / "out")} if export else {}
    with pytest.raises(UserError, match=OTHER + r".*; give it, or export a LoRA adapter"):
        get_infer_args(options | {"model_name_or_path": str(models[0])})
    assert get_infer_args(options | {"model_name_or_path": str(lab / "base")})
    stacked = {"adapter_name_or_path": f"{lab / 'task2'},{trained}"}  # the second one's base is what the first makes
    assert get_infer_args(options | stacked | {"model_name_or_path": str(models[0])})


def test_an_export_into_a_head_that_is_the_embedding(lab: Path, tmp_path: Path) -> None:
    base, trained = make_tied(lab, tmp_path)
    options = {"model_name_or_path": str(base), "adapter_name_or_path": str(trained), "template": "default"}
    message = r"^adapter_name_or_path: lm_head is tied to the embedding in .*tied, .*; untie it"
    with pytest.raises(UserError, match=message):
        get_infer_args(options | {"export_dir": str(tmp_path / "out")})
    own = {"model_name_or_path": str(lab / "base"), "export_dir": str(tmp_path / "out")}
    assert get_infer_args(options | own)


def test_a_training_that_goes_on(lab: Path, models: list[Path], trained: Path, tmp_path: Path) -> None:
    changes = {"adapter_name_or_path": str(trained), "aligned_adapter": None, "task_adapters": None}
    with pytest.raises(UserError, match=OTHER):
        get_train_args(training_options(lab, tmp_path / "run", model_name_or_path=str(models[0]), **changes))
    assert get_train_args(training_options(lab, tmp_path / "run", **changes))


def test_a_new_training(lab: Path, models: list[Path], tmp_path: Path) -> None:
    """The adapters name their base; a copy of it elsewhere is as good."""
    message = (
        "model_name_or_path: .*full1 is not .*base, which the adapters were trained on .*; give it, or correct base_"
    )
    with pytest.raises(UserError, match=message):
        get_train_args(training_options(lab, tmp_path / "run", model_name_or_path=str(models[0])))
    copy = shutil.copytree(lab / "base", tmp_path / "copy")
    assert get_train_args(training_options(lab, tmp_path / "run", model_name_or_path=str(copy)))
    adapter = make_lora(lab / "base", tmp_path / "unnamed", seed=3)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "a/hub-id"}))
    changes = {"aligned_adapter": None, "task_adapters": [str(adapter)], "model_name_or_path": str(models[0])}
    assert get_train_args(training_options(lab, tmp_path / "run", **changes))
