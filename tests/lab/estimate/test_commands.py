from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Realign = Callable[..., tuple[int, str, str]]


def test_a_training_as_json(options: dict[str, Any], realign: Realign) -> None:
    code, out, _ = realign(options, "cutoff_len=32", "--json", "--processes", "4")
    assert code == 0
    found = json.loads(out)
    assert found["batch"] == {"rows": 4, "tokens": 32, "checkpointing": True}
    for memory in (found["memory"], found["lora_dpo"], *found["ways"].values()):
        assert memory["total"] == sum(memory["parts"].values())
        assert set(memory["fits_gb"]) == {"24", "40", "80"}
        assert all(memory["fits_gb"].values())
    assert list(found["ways"]) == ["one process", "DDP", "FSDP2", "ZeRO-2", "ZeRO-3"]
    assert found["processes"] == 4
    assert found["disk"]["checkpoint"] > found["disk"]["result"] > found["disk"]["lora_export"]["fp32"]
    assert "nowhere is not there" in found["assumed"][0]


def test_a_training_as_tables(options: dict[str, Any], realign: Realign) -> None:
    code, out, _ = realign(options, "deepspeed=zero3.json")
    assert code == 0
    for text in ("q_proj", "task vectors", "LoRA-DPO", "24 GB", "FSDP2, 2 processes", "checkpoint", "merged model"):
        assert text in out


@pytest.fixture
def study(llama: Path) -> dict[str, Any]:
    return {
        "root": "runs/it",
        "model": str(llama),
        "template": "llama3",
        "data": {
            "answers": {"kind": "sft", "task": "align"},
            "pairs": {"kind": "preference"},
            "maths": {"kind": "sft", "task": "gsm8k"},
            "code": {"kind": "sft", "task": "code_alpaca"},
        },
        "align": {"steps": [{"stage": "sft", "dataset": "answers"}]},
        "tasks": {"maths": {"dataset": "maths"}, "code": {"dataset": "code"}},
        "realign": {"pairs": "pairs", "answers": "answers"},
        "methods": {"paper": {}, "sft": {}, "interpolation": {}},
        "fusion": {"methods": {"task_arithmetic": {}}},
        "train": {"all": {"cutoff_len": 32}, "lora": {"lora_rank": 4}},
        "ablations": {"transfer": {}},
        "evaluate": {"tasks": "safety", "metadata": {"judge": "off"}},
    }


def test_a_study(study: dict[str, Any], realign: Realign) -> None:
    code, out, _ = realign(study, "--json")
    assert code == 0
    found = json.loads(out)
    stages = [row["stage"] for row in found["trainings"]]
    assert (stages.count("sft"), stages.count("mask_dpo")) == (1 + 2 + 2, 2 + 1)
    disk = found["disk"]
    assert disk["all"] == sum(size for kind, size in disk.items() if kind != "all")
    assert set(disk) == {"align", "finetune", "realign", "baseline", "merge", "fuse", "export", "all"}
    assert disk["realign"] == sum(row["folder"] for row in found["trainings"] if row["stage"] == "mask_dpo")
    models = 2 + 2 + 2 * 3 + 2 + 2 + 1 + 3  # start, tuned, paper's masks, SFT, merged, fused plain and realigned
    assert found["evaluations"] == models
    assert found["judge"]["calls"] == models * 846
    assert not found["judge"]["judging"]
    merged = disk["merge"] / 2
    assert found["scratch"] == 2 * merged  # mergekit writes base+aligned and base+tuned as whole models

    more = json.loads(realign(study, "--json", "--target", "transfer", "evaluate.options.limit=2")[1])
    assert more["disk"]["move"] > 0
    assert more["judge"]["calls"] < found["judge"]["calls"]


def test_a_study_as_tables(study: dict[str, Any], realign: Realign) -> None:
    code, out, _ = realign(study)
    assert code == 0
    for text in ("mask_dpo (mask): code-paper-0 …", "left on the disk by", "No judge is asked", "checkpoint"):
        assert text in out


def test_a_study_of_whole_models(study: dict[str, Any], realign: Realign) -> None:
    study |= {"adaptation": "full", "methods": {"paper": {"masks": ["soft"]}}, "fusion": None, "ablations": {}}
    found = json.loads(realign(study, "--json")[1])
    tuned = next(row for row in found["trainings"] if row["step"] == "maths")
    masked = next(row for row in found["trainings"] if row["stage"] == "mask_dpo")
    assert tuned["kind"] == "full"
    # What LLaMA-Factory trains whole it saves in fp32, so that the masked training starts from fp32 weights.
    assert masked["memory"]["parts"]["base weights"] >= 2 * 2 * 20000
    assert masked["memory"]["parts"]["task vectors"] > 0


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_what_an_earlier_run_left_is_not_taken_for_what_is_planned(
    study: dict[str, Any], realign: Realign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study |= {"adaptation": adaptation, "methods": {"paper": {"masks": ["soft"]}}, "fusion": None, "ablations": {}}
    planned = realign(study, "--json")
    assert planned[0] == 0
    folders = [tmp_path / study["root"] / "models" / name for name in ("aligned", "maths")]
    for folder in folders:
        (folder / "checkpoint-100").mkdir(parents=True)
    assert realign(study, "--json") == planned  # stopped
    for folder in folders:
        adapter = {"peft_type": "LORA", "r": 1, "lora_alpha": 8, "target_modules": ["k_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        config = json.loads((Path(study["model"]) / "config.json").read_text()) | {"num_hidden_layers": 1}
        (folder / "config.json").write_text(json.dumps(config))
    assert realign(study, "--json") == planned  # outdated


def test_mistakes_get_one_line_and_exit_code_2(
    options: dict[str, Any], study: dict[str, Any], realign: Realign, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for values, words, message in (
        ({k: v for k, v in options.items() if k != "model_name_or_path"}, [], "model_name_or_path: is missing"),
        (options, [f"model_name_or_path={tmp_path}/empty"], "holds nothing, expected config.json"),
        (options, ["lora_target=q_prj"], "did you mean 'q_proj'"),
        (options, ["lora_rank=null"], "task_adapters[0]: nowhere does not exist"),
        (options, ["task_adapterz=[x]"], "the key 'task_adapterz' is unknown, expected 'task_adapters'"),
        (options, ["mask_granularity=elements"], "did you mean 'element'"),
        (options, ["cutoff_len"], "cutoff_len: is not an override"),
        (options, ["cutoff_len=foo"], "cutoff_len: 'foo', expected a number"),
        (options, ["--target", "main"], "--target: main for a training"),
        (options, ["stage=ppo"], "stage: 'ppo' is unknown"),
        ({"learning_rate": 1}, [], "expected a training's (model_name_or_path, stage: mask_dpo) or a study's"),
        ({**study, "taskss": {}}, [], "did you mean 'tasks'"),
        ({k: v for k, v in study.items() if k != "model"}, [], "the key 'model' is missing"),
        (study, ["train.all.cutof_len=4096"], "train.all: 'cutof_len' is unknown"),
        (study, ["evaluate.tasks=safty"], "evaluate.tasks: 'safty' is unknown"),
        (study, ["template=lama3"], "template: 'lama3' is unknown"),
        (study, ["evaluate.options.limmit=2"], "evaluate.options: 'limmit' is unknown"),
        (study, ["evaluate.choose.metadata.juge=off"], "evaluate.choose.metadata: 'juge' is unknown"),
        (study, ["model=runs/it/base"], "model: runs/it/base is made by a step before the study"),
        (study, ["--target", "poisoning"], "--target: 'poisoning' is unknown"),
    ):
        code, out, err = realign(values, *words)
        assert (code, out) == (2, ""), (words, out, err)
        assert message in err, err
        assert len(err.splitlines()) == 1, err


def test_a_study_whose_files_are_not_there_yet(study: dict[str, Any], realign: Realign) -> None:
    study["evaluate"] |= {"options": {"include_path": "nowhere"}, "tasks": "my_own"}
    study["evaluate"]["metadata"]["safety_data"] = "nowhere"
    study["train"]["all"]["deepspeed"] = "nowhere.json"
    assert realign(study, "--json")[0] == 0


def test_a_users_own_training_of_another_kind_is_not_counted(study: dict[str, Any], realign: Realign) -> None:
    trains = {"mine": {"stage": "kto"}, "other": {"stage": "sft", "finetuning_type": "freeze"}}
    finish = [{"name": name, "train": train | {"output_dir": f"runs/{name}"}} for name, train in trains.items()]
    code, out, _ = realign(study | {"finish": finish}, "--json")
    assert code == 0
    assert json.loads(out)["not_counted"] == ["mine", "other"]


def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from realign_plugin.cli import main

    (tmp_path / "odd.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- 1")
    for name, message in (("none", "No such file"), ("odd", "is not YAML"), ("list", "expected a training's")):
        with pytest.raises(SystemExit) as caught:
            main(["estimate", str(tmp_path / f"{name}.yaml")])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
