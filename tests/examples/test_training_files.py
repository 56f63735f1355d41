"""The training files in examples/train run, with nothing replaced but paths, data, template, length and precision."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from llamafactory.hparams import parser
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace
from realign_plugin.training.settings.preflight import check_options
from tests.examples.shipped import FSDP, ZERO

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "examples" / "train"
FSDP_ON_CPU = {"PYTHONPATH": os.pathsep.join(filter(None, (str(HERE / "fsdp_on_cpu"), os.environ.get("PYTHONPATH"))))}
DEEPSPEED_ON_CPU = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}
FILES = sorted(FOLDER.glob("*.yaml"))
ALONE = [FOLDER / f"{name}.yaml" for name in ("full_weights", "instruct_base", "lora_many_tasks", "lora_one_task")]
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed; pip install deepspeed")
RAY = all(importlib.util.find_spec(name) is not None for name in ("ray", "grpc"))
BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not BITSANDBYTES, reason="bitsandbytes is not installed")
needs_ray = pytest.mark.skipif(not RAY, reason="ray is not installed; pip install 'ray[default]'")
Run = Callable[..., Any]

TOGETHER = {
    # No noise: processes would draw masks of their own. Relaxed masks: a rounding error cannot flip an element.
    "mask_noise": 0.0,
    "mask_estimator": "relaxed",
    "val_size": 8,
    "max_steps": 3,
    "eval_steps": 3,
    "logging_steps": 1,
    "save_steps": 2,
    "per_device_eval_batch_size": 4,
    "seed": 0,
}


# Most batches have rows of one teacher alone; bf16, as LLaMA-Factory's files for accelerate.
DISTILLED = TOGETHER | {"per_device_train_batch_size": 2, "bf16": True}


def replaced(file: Path, lab: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A file's options with the paths of the pico models, for the CPU."""
    options = yaml.safe_load(file.read_text())
    paths: dict[str, Any] = {
        "model_name_or_path": str(lab / "base"),
        "dataset": "pairs",
        "dataset_dir": str(lab),
        "output_dir": str(out),
        "val_size": 0.25,
        "max_steps": 2,
        "eval_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
    }
    if options["stage"] == "safety_distill":
        paths |= {"dataset": "safety,skill", "skill_dataset": "skill"}
    if "aligned_adapter" in options:
        paths["aligned_adapter"] = str(lab / "aligned")
    for kind, name in (("task_adapters", "task"), ("task_models", "full")):
        if kind in options:
            paths[kind] = [str(lab / f"{name}{i + 1}") for i in range(len(options[kind]))]
    if "deepspeed" in options:
        paths["deepspeed"] = str(FOLDER.parent.parent / options["deepspeed"])
        paths["use_cpu"] = False  # accelerate takes it for "no DeepSpeed"
    for name in ("template", "pure_bf16"):
        options.pop(name, None)
    return options | paths | changes


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_options_mean_something(file: Path) -> None:
    options = yaml.safe_load(file.read_text())
    spec = check_options(options)
    assert spec.mask == ("soft" if options["stage"] == "safety_distill" else "binary")  # the mask that is trained
    command = file.read_text().split("model_name_or_path")[0]
    assert f"examples/train/{file.name}" in command
    for name in re.findall(r"examples/train/\S+\.(?:yaml|json)", file.read_text()):
        assert (FOLDER.parent.parent / name).is_file(), name
    assert f"({file.name})" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=needs_deepspeed if "deepspeed" in f.stem else ()) for f in FILES],
    ids=lambda file: file.stem,
)
def test_the_stock_parser_takes_the_file(lab: Path, models: list[Path], tmp_path: Path, file: Path) -> None:
    model_args, _, training_args, finetuning_args, _ = parser._parse_train_args(replaced(file, lab, tmp_path / "run"))
    given = yaml.safe_load(file.read_text())
    assert finetuning_args.real_names == {name: given[name] for name in ("stage", "finetuning_type")}
    assert finetuning_args.subspace is not None
    assert (model_args.quantization_bit == 4) == ("qlora" in file.stem)
    if "deepspeed" in file.stem:
        assert training_args.hf_deepspeed_config.config["zero_optimization"]["stage"] == int(file.stem[-1])


@pytest.mark.parametrize("file", ALONE, ids=lambda file: file.stem)
def test_the_file_runs(lab: Path, models: list[Path], tmp_path: Path, file: Path) -> None:
    options = replaced(file, lab, tmp_path / "run")
    run_exp(options)
    subspace = SafetySubspace.load(tmp_path / "run")
    assert len(subspace.spec.task_weights) == len(options.get("task_adapters") or options["task_models"])
    assert bool(subspace.aligned) == ("aligned_adapter" in options)
    assert subspace.spec.vector_space == ("weight" if "task_models" in options else "lora")


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_distillation_runs(lab: Path, tmp_path: Path, kind: str) -> None:
    file = FOLDER / ("distill.yaml" if kind == "safety_subspace" else "distill_lora.yaml")
    run_exp(replaced(file, lab, tmp_path / "run", logging_steps=1))
    assert {"kl/aligned", "eval_kl/fine_tuned"} <= {key for entry in log(tmp_path / "run") for key in entry}
    saved = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert saved["peft_type"] == {"safety_subspace": "SAFETY_SUBSPACE", "lora": "LORA"}[kind]


@pytest.fixture(scope="module")
def one_process(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lora_one_task.yaml in this process: 4 pairs x 4 steps, as many as the other files take in two processes."""
    out = tmp_path_factory.mktemp("alone") / "run"
    changes = TOGETHER | {"per_device_eval_batch_size": 8}
    run_exp(replaced(FOLDER / "lora_one_task.yaml", lab, out, **changes))
    return out


def log(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "trainer_state.json").read_text())["log_history"])


def logged(run: Path, key: str) -> list[float]:
    return [entry[key] for entry in log(run) if key in entry]


def assert_same_logs(run: Path, alone: Path, keys: Iterable[str]) -> None:
    for key in keys:
        assert len(logged(alone, key)) >= 1, key
        assert logged(run, key) == pytest.approx(logged(alone, key), rel=1e-4, abs=1e-6), key


def assert_same(run: Path, alone: Path, own: str = "rewards/chosen") -> None:
    """The same losses, masks and subspace as one process with the same global batch."""
    assert_same_logs(run, alone, ("loss", "eval_loss", "mask/mean", "eval_mask/entropy", own))
    found, expected = SafetySubspace.load(run), SafetySubspace.load(alone)
    for what in ("logits", "aligned"):
        for module, pair in getattr(expected, what).items():
            for factor, tensor in pair.items():
                assert (getattr(found, what)[module][factor] - tensor).abs().max() <= 1e-4, (what, module, factor)
    assert all((found.deltas[0][m][f] == t).all() for m, pair in expected.deltas[0].items() for f, t in pair.items())
    assert any(bool((pair["A"].abs() > 0.05).any()) for pair in found.logits.values())


def write(options: dict[str, Any], file: Path) -> Path:
    file.write_text(yaml.safe_dump(options))
    return file


def check(result: Any) -> None:
    assert result.returncode == 0, result.stderr[-20000:]


def run_two(run_stock: Run, file: Path, engine: str) -> Any:
    """Train in two processes, each with everything (``ddp``) or, by one of LLaMA-Factory's files, with its part."""
    if engine == "ddp":
        return run_stock("llamafactory-cli", "train", file, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"})
    config = write(FSDP[engine], file.with_name("accelerate.yaml"))
    here = ["--num_machines", 1, "--num_processes", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", 0]
    last = [*here, "-m", "llamafactory.launcher", file]
    result = run_stock("accelerate", "launch", "--config_file", config, *last, env=FSDP_ON_CPU)
    assert result.stderr.count("realign-plugin: FSDP version 2 is used instead of version 1") == 1
    return result


@pytest.mark.cli
def test_ddp_is_one_process(lab: Path, tmp_path: Path, run_stock: Run, one_process: Path) -> None:
    file = write(replaced(FOLDER / "ddp.yaml", lab, tmp_path / "run", **TOGETHER), tmp_path / "x.yaml")
    check(run_stock("llamafactory-cli", "train", file, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}))
    assert_same(tmp_path / "run", one_process)


@pytest.fixture(scope="module")
def distilled(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """distill.yaml in this process, as ``one_process``."""
    out = tmp_path_factory.mktemp("distilled") / "run"
    run_exp(replaced(FOLDER / "distill.yaml", lab, out, **DISTILLED, gradient_accumulation_steps=8))
    return out


@pytest.mark.cli
@pytest.mark.parametrize("engine", ["ddp", "fsdp_config_offload"])
def test_distillation_in_two_processes_is_one(
    lab: Path, tmp_path: Path, run_stock: Run, distilled: Path, engine: str
) -> None:
    options = replaced(FOLDER / "distill.yaml", lab, tmp_path / "run", **DISTILLED, gradient_accumulation_steps=4)
    check(run_two(run_stock, write(options, tmp_path / "x.yaml"), engine))
    assert_same(tmp_path / "run", distilled, "kl/fine_tuned")


@pytest.mark.cli
@needs_bitsandbytes
def test_a_4_bit_base_in_two_processes_is_one(
    lab: Path, tmp_path: Path, run_stock: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)  # as fsdp_on_cpu
    changes = TOGETHER | {"bf16": True, "quantization_bit": 4}
    alone = tmp_path / "alone"
    run_exp(replaced(FOLDER / "lora_one_task.yaml", lab, alone, **changes | {"per_device_eval_batch_size": 8}))
    file = write(replaced(FOLDER / "fsdp.yaml", lab, tmp_path / "run", **changes), tmp_path / "x.yaml")
    check(run_two(run_stock, file, "fsdp_config_offload"))
    assert_same(tmp_path / "run", alone)


@pytest.mark.cli
@needs_ray
def test_ray_is_one_process(lab: Path, tmp_path: Path, run_stock: Run, one_process: Path) -> None:
    cluster = {"num_cpus": 20, "num_gpus": 2}
    options = replaced(FOLDER / "ddp.yaml", lab, tmp_path / "run", **TOGETHER)
    file = write(options | {"ray_num_workers": 2, "ray_init_kwargs": cluster}, tmp_path / "x.yaml")
    check(run_stock(sys.executable, HERE / "ray_on_cpu.py", "train", file, env={"USE_RAY": "1"}))
    assert_same(tmp_path / "run", one_process)


@pytest.mark.cli
def test_fsdp_is_one_process_and_goes_on_with_another_number(
    lab: Path, tmp_path: Path, run_stock: Run, one_process: Path
) -> None:
    options = replaced(FOLDER / "fsdp.yaml", lab, tmp_path / "run", **TOGETHER)
    command = ["accelerate", "launch", "--config_file", FOLDER / "accelerate" / "fsdp2.yaml", "--main_process_port", 0]
    last = ["-m", "llamafactory.launcher", write(options, tmp_path / "x.yaml")]
    check(run_stock(*command, *last, env=FSDP_ON_CPU))
    assert_same(tmp_path / "run", one_process)
    assert (tmp_path / "run" / "checkpoint-2" / "optimizer_0").is_dir()  # it was FSDP that ran
    (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").unlink()  # as if killed while it was written
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    write(options | {"gradient_accumulation_steps": 4, "per_device_eval_batch_size": 8}, tmp_path / "x.yaml")
    check(run_stock(*command, "--num_processes", 1, *last, env=FSDP_ON_CPU))
    assert_same(tmp_path / "run", one_process)


def zero_config(name: str, file: Path) -> str:
    """The example's (zero2, zero3), with all parameters split: of a pico model none would be; or LLaMA-Factory's."""
    if name in ZERO:
        config = ZERO[name]
    else:
        config = json.loads((FOLDER / "deepspeed" / f"{name}.json").read_text())
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    file.write_text(json.dumps(config))
    return str(file)


@pytest.mark.cli
@needs_deepspeed
@pytest.mark.parametrize("name", ["zero2", "zero3", *ZERO])
def test_deepspeed_is_one_process(lab: Path, tmp_path: Path, run_stock: Run, one_process: Path, name: str) -> None:
    stage = 2 if "2" in name else 3
    options = replaced(FOLDER / f"deepspeed_zero{stage}.yaml", lab, tmp_path / "run", **TOGETHER)
    file = write(options | {"deepspeed": zero_config(name, tmp_path / "zero.json")}, tmp_path / "x.yaml")
    check(run_stock("llamafactory-cli", "train", file, env=DEEPSPEED_ON_CPU))
    assert_same(tmp_path / "run", one_process)
    assert list((tmp_path / "run").glob("checkpoint-2/global_step2/*optim_states.pt"))  # it was DeepSpeed that ran
