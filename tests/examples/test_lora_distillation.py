"""Plain LoRA by self-distillation (distill_lora.yaml): two processes are one, whoever holds what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file

from tests.examples.test_training_files import (
    DEEPSPEED_ON_CPU,
    DISTILLED,
    FOLDER,
    Run,
    assert_same_logs,
    check,
    logged,
    needs_deepspeed,
    replaced,
    run_two,
    write,
    zero_config,
)

DISTILLED_LORA = {k: v for k, v in DISTILLED.items() if not k.startswith("mask_")} | {"learning_rate": 0.01}
DISTILLED_LORA |= {"per_device_eval_batch_size": 3}  # two processes have to repeat rows


@pytest.fixture(scope="module")
def distilled_lora(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """distill_lora.yaml in this process, as ``distilled``."""
    out = tmp_path_factory.mktemp("distilled_lora") / "run"
    run_exp(replaced(FOLDER / "distill_lora.yaml", lab, out, **DISTILLED_LORA, gradient_accumulation_steps=8))
    return out


@pytest.mark.cli
@pytest.mark.parametrize("engine", ["ddp", "fsdp_config_multiple_nodes"])
def test_lora_distillation_in_two_processes_is_one(
    lab: Path, tmp_path: Path, run_stock: Run, distilled_lora: Path, engine: str
) -> None:
    run = tmp_path / "run"
    options = replaced(FOLDER / "distill_lora.yaml", lab, run, **DISTILLED_LORA, gradient_accumulation_steps=4)
    file = write(options, tmp_path / "x.yaml")
    check(run_two(run_stock, file, engine))
    assert_same_lora(run, distilled_lora, lab / "task1")
    if engine != "ddp":
        assert (run / "checkpoint-2" / "optimizer_0").is_dir()  # it was FSDP that ran
        (run / "checkpoint-3" / "trainer_state.json").unlink()  # as if killed while it was written
        (run / "adapter_model.safetensors").unlink()
        state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
        state["log_history"].append({"step": 2, "went_on": 1})
        (run / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state))
        check(run_two(run_stock, file, engine))
        assert logged(run, "went_on") == [1]
        assert_same_lora(run, distilled_lora, lab / "task1")


def assert_same_lora(run: Path, alone: Path, start_from: Path) -> None:
    """The same losses and adapter as one process, and it has moved."""
    assert_same_logs(run, alone, ("loss", "eval_loss", "kl/aligned", "eval_kl/fine_tuned"))
    found, expected, start = (load_file(folder / "adapter_model.safetensors") for folder in (run, alone, start_from))
    assert found.keys() == expected.keys() == start.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= 1e-5, name
        assert (tensor - start[name]).abs().max() > 1e-3, name


@pytest.mark.cli
@needs_deepspeed
@pytest.mark.parametrize("name", ["zero2", "zero3", "ds_z3_offload_config"])
def test_lora_distillation_with_deepspeed_is_one_process(lab: Path, tmp_path: Path, run_stock: Run, name: str) -> None:
    exact = DISTILLED_LORA | {"bf16": False}  # DeepSpeed casts the whole model to bf16, which no single process does
    run_exp(replaced(FOLDER / "distill_lora.yaml", lab, tmp_path / "alone", **exact, gradient_accumulation_steps=8))
    changes = {"deepspeed": zero_config(name, tmp_path / "zero.json"), "use_cpu": False}
    options = replaced(FOLDER / "distill_lora.yaml", lab, tmp_path / "run", **exact)
    file = write(options | changes | {"gradient_accumulation_steps": 4}, tmp_path / "x.yaml")
    check(run_stock("llamafactory-cli", "train", file, env=DEEPSPEED_ON_CPU))
    assert_same_lora(tmp_path / "run", tmp_path / "alone", lab / "task1")
    assert list((tmp_path / "run").glob("checkpoint-2/global_step2/*optim_states.pt"))  # it was DeepSpeed that ran
