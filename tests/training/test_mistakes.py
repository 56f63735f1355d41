"""Every mistake through the stock entry point: one line, exit code 2, nothing written, before a model is loaded."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin import UserError
from tests.conftest import make_lora, training_options
from tests.subspace.test_lora_adapters import BAD


def train(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str]:
    """``llamafactory-cli train`` in this process: exit code and standard error."""
    from llamafactory import cli

    def loaded(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("llamafactory.model.loader.load_model", loaded)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", str(tmp_path / "x.yaml")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), capsys.readouterr().err


def check(tmp_path: Path, options: dict[str, Any], message: str, monkeypatch: Any, capsys: Any) -> None:
    code, err = train(tmp_path, options, monkeypatch, capsys)
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ours", [{}, {"stage": "safety_distill", "finetuning_type": "lora"}])
def test_v1_has_none_of_our_stages(
    lab: Path, tmp_path: Path, ours: dict[str, Any], monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("USE_V1", "1")
    message = f"USE_V1: LLaMA-Factory's v1 has no stage {ours.get('stage', 'mask_dpo')}, expected 0; unset USE_V1"
    check(tmp_path, training_options(lab, tmp_path / "run", **ours), message, monkeypatch, capsys)


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters(lab: Path, tmp_path: Path, case: str, monkeypatch: Any, capsys: Any) -> None:
    task = Path(shutil.copytree(lab / "task1", tmp_path / "task"))
    BAD[case][0](task)
    options = training_options(lab, tmp_path / "run", task_adapters=[str(lab / "task2"), str(task)])
    check(tmp_path, options, "task_adapters[1]: ", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_adapters": ["ALIGNED"]}, "(the task vector is 0)"),
        ({"task_adapters": ["RANK8"]}, "rank 8 of model.layers.0.self_attn.q_proj differs from aligned_adapter's 4"),
        ({"task_adapters": ["OTHER_TARGETS"]}, "target module model.layers.0.self_attn.v_proj is missing"),
        ({"task_adapters": None}, "task_adapters is not set"),
        ({"task_models": ["m"]}, "task_adapters and task_models are both set"),
        ({"task_weight": [0.1, 0.2]}, "task_weight: [0.1, 0.2] has 2 numbers for 1 task adapters"),
        ({"fusion_method": "tys"}, "fusion_method: 'tys' is unknown"),
        ({"mask_granularity": "elements"}, "mask_granularity: 'elements' is unknown"),
        ({"mask_reference": "initial"}, "mask_reference: 'initial' is unknown"),
        ({"finetuning_type": "lora"}, "finetuning_type: 'lora' with stage: mask_dpo, expected 'safety_subspace'"),
        ({"stage": "dpo"}, "stage: 'dpo' with finetuning_type: safety_subspace, expected one of mask_dpo"),
        ({"use_dora": True}, "use_dora: True has no meaning here"),
        (
            {"use_unsloth": True},
            "use_unsloth: True with stage: mask_dpo, expected none, since it does not restore random numbers",
        ),
        ({"mask_reference": "model"}, "mask_reference: 'model' needs ref_model"),
    ],
)
def test_bad_options(
    lab: Path, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: Any, capsys: Any
) -> None:
    made = {
        "ALIGNED": lambda: lab / "aligned",
        "RANK8": lambda: make_lora(lab / "base", tmp_path / "r8", r=8),
        "OTHER_TARGETS": lambda: make_lora(lab / "base", tmp_path / "k", target_modules=["q_proj", "k_proj"]),
    }
    if changes.get("task_adapters"):
        changes = {"task_adapters": [str(made[name]()) for name in changes["task_adapters"]]}
    check(tmp_path, training_options(lab, tmp_path / "run", **changes), message, monkeypatch, capsys)


def test_the_launcher_as_a_module(lab: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """As ``python -m llamafactory.launcher FILE`` and accelerate start it: without the command's own launcher."""
    from llamafactory.train.tuner import run_exp

    options = training_options(lab, tmp_path / "run", mask_reference="initial")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(sys, "argv", ["launcher.py", str(tmp_path / "x.yaml")])
    with pytest.raises(SystemExit) as caught:
        run_exp()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: mask_reference: 'initial' is unknown")
    with pytest.raises(UserError, match="mask_reference: 'initial' is unknown"):
        run_exp(options)
