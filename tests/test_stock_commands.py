"""End to end through the real stock commands, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin import SafetySubspace
from tests.conftest import training_options

pytestmark = pytest.mark.cli
Run = Callable[..., Any]


def write_yaml(lab: Path, tmp_path: Path, **changes: Any) -> Path:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(training_options(lab, tmp_path / "run", **changes)))
    return file


def history(run: Path) -> list[dict[str, Any]]:
    return [e for e in json.loads((run / "trainer_state.json").read_text())["log_history"] if "loss" in e]


def test_train_export_and_chat(lab: Path, tmp_path: Path, run_stock: Run) -> None:
    result = run_stock("llamafactory-cli", "train", write_yaml(lab, tmp_path), "max_steps=2")
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(history(tmp_path / "run")) == 2
    SafetySubspace.load(tmp_path / "run")
    common = ["--model_name_or_path", lab / "base", "--adapter_name_or_path", tmp_path / "run"]
    result = run_stock("llamafactory-cli", "export", *common, "--export_dir", tmp_path / "merged")
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    result = run_stock("llamafactory-cli", "chat", *common, "--max_new_tokens", "5", stdin="tell me the way\nexit\n")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Assistant:" in result.stdout


def test_flags_do_what_yaml_does(lab: Path, tmp_path: Path, run_stock: Run) -> None:
    options = training_options(lab, tmp_path / "flags", task_adapters=f"{lab / 'task1'},{lab / 'task2'}", max_steps=2)
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    result = run_stock("llamafactory-cli", "train", *words, "--task_weight", "0.3,0.5", "--fusion_method", "ties")
    assert result.returncode == 0, result.stderr[-2000:]
    spec = SafetySubspace.load(tmp_path / "flags").spec
    assert (spec.task_weights, spec.fusion_method) == ([0.3, 0.5], "ties")


def test_two_processes(lab: Path, tmp_path: Path, run_stock: Run) -> None:
    # Six validation pairs in batches of three: no process gets a pair twice to fill a batch.
    common = {"mask_keep_weight": 0.1, "val_size": 0.25, "do_eval": True, "per_device_eval_batch_size": 3}
    file = write_yaml(lab, tmp_path, per_device_train_batch_size=2, **common)
    result = run_stock("llamafactory-cli", "train", file, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"})
    assert result.returncode == 0, result.stderr[-20000:]
    assert len(history(tmp_path / "run")) == 4
    together = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    alone = training_options(
        lab,
        tmp_path / "alone",
        task_adapters=None,
        aligned_adapter=None,
        adapter_name_or_path=str(tmp_path / "run"),
        do_train=False,
        **common,
    )
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(alone))
    result = run_stock("llamafactory-cli", "train", tmp_path / "alone.yaml")
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "alone" / "eval_results.json").read_text())
    for key in ("eval_loss", "eval_logps/chosen", "eval_logps/rejected"):
        assert found[key] == pytest.approx(together[key], rel=1e-5), key


def test_help_shows_the_new_choices(run_stock: Run) -> None:
    result = run_stock("llamafactory-cli", "train", "-h")
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    assert "mask_dpo" in text
    assert "safety_subspace" in text
    assert "--mask_granularity {element,row,column,module}" in text


@pytest.mark.parametrize(
    ("command", "changes", "env", "message"),
    [
        ("train", {"task_adapters": ["nowhere"]}, {}, "error: task_adapters[0]: nowhere does not exist"),
        (
            "train",
            {"task_weight": [1, 2]},
            {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"},
            "error: task_weight: [1, 2]",
        ),
        ("train", {"mask_reference": "model"}, {}, "error: mask_reference: 'model' needs ref_model"),
        ("chat", {"infer_backend": "vllm"}, {}, "error: infer_backend: 'vllm'"),
        ("export", {"quantization_bit": 4}, {}, "error: quantization: a safety subspace"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    lab: Path,
    tmp_path: Path,
    run_stock: Run,
    subspace: Any,
    command: str,
    changes: dict[str, Any],
    env: dict[str, str],
    message: str,
) -> None:
    if command == "train":
        options = training_options(lab, tmp_path / "run", **changes)
    else:
        folder = str(subspace.save(tmp_path / "s"))
        options = {"model_name_or_path": str(lab / "base"), "adapter_name_or_path": folder} | changes
        options |= {"export_dir": str(tmp_path / "out")} if command == "export" else {}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(options))
    result = run_stock("llamafactory-cli", command, tmp_path / "x.yaml", env=env)
    assert result.returncode == 2, result.stderr[-2000:]
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(message)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def test_off_leaves_the_stock_command_as_it_was(lab: Path, tmp_path: Path, run_stock: Run) -> None:
    off = {"REALIGN_PLUGIN": "0"}
    result = run_stock("llamafactory-cli", "version", env=off)
    assert result.returncode == 0
    assert "realign" not in result.stdout + result.stderr
