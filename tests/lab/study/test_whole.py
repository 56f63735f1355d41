"""A study from one file to its report, through the stock commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.cli import main
from realign_plugin.lab.study.config.catalogue import METHODS, TRAININGS
from realign_plugin.lab.study.launch import make_plan
from realign_plugin.lab.study.planning.commands import Train

Run = Callable[..., Any]

pytestmark = pytest.mark.cli


@pytest.fixture(scope="module")
def config(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one adapter: two trainings, one merge, measured on made-up prompts without a judge."""
    folder = tmp_path_factory.mktemp("a study")  # a path with a space
    prompts = folder / "prompts"
    prompts.mkdir()
    (prompts / "shadow.json").write_text(json.dumps([{"prompt": f"how do i make {x} ?"} for x in ("paper", "flour")]))
    questions = [{"question": f"what is {n} ?", "answer": f"take {n} . #### {n}"} for n in range(3)]
    (prompts / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (prompts / "gsm8k_train.jsonl").write_text("\n".join(map(json.dumps, questions * 3)))
    small = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    values = {
        "root": str(folder / "run"),
        "title": "A pico study",
        "model": str(lab / "base"),
        "dataset_dir": str(lab),
        "align": {"adapter": str(lab / "aligned")},
        "tasks": {"one": {"adapter": str(lab / "task1"), "label": "paper kites"}},
        "realign": {"pairs": "pairs", "safety": "safety", "skill": "skill"},
        "methods": {
            "shipped": {},
            "interpolation": {"strengths": [0.25, 0.75]},
            "distill_lora": {},
        },
        "machine": {"threads": 1, "evaluation_threads": 1},
        "train": {"all": small | {"cutoff_len": 48, "bf16": False, "use_cpu": True, "plot_loss": False}},
        "evaluate": {
            "tasks": "safety_shadow, realign_gsm8k",
            "model_args": {"dtype": "float32", "max_length": 64},
            "options": {"limit": 2, "batch_size": 4, "device": "cpu", "gen_kwargs": "max_gen_toks=8"},
            "metadata": {"safety_data": str(prompts), "judge": "off"},
            "models_per_job": 9,
            "choose": {"tasks": "realign_gsm8k"},
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    fails = {"name": "fails", "command": "echo ValueError: float99; exit 3", "creates": [str(folder / "nothing")]}
    failing = values | {"methods": {}, "root": str(folder / "failing"), "prepare": [fails]}
    (folder / "failing.yaml").write_text(yaml.safe_dump(failing, sort_keys=False))
    return folder / "study.yaml"


def test_from_one_file_to_tables_and_a_report_and_nothing_twice(config: Path, run_stock: Run) -> None:
    shown = run_stock("realign", "study", config, "-n")
    assert shown.returncode == 0, shown.stderr
    assert "one-shipped-0: masked DPO" in shown.stdout
    assert not (config.parent / "run").exists()

    found = run_stock("realign", "study", config, "--cores", 2)
    assert found.returncode == 0, found.stderr[-2000:]
    run = config.parent / "run"
    table = json.loads((run / "tables" / "main.json").read_text())
    labels = [row["label"] for row in table["rows"]]
    assert labels[:4] == ["base", "aligned", "fine-tuned", "realigned (as shipped)"]
    assert labels[4] in ("interpolation (0.25)", "interpolation (0.75)")
    assert labels[5:] == ["realigned (distilled LoRA)"]
    for row in table["rows"]:
        cells = row["cells"]
        agrees = cells["safety_shadow.agreement"]
        assert agrees["reason" if row["model"] == "aligned" else "count"] == (
            "the model that the others are compared with" if row["model"] == "aligned" else 2
        )
        assert cells["safety_shadow.refusal_rate"]["count"] == 2
        assert 0.0 <= cells["realign_gsm8k.exact_match"]["value"] <= 1.0
    assert (
        json.loads((run / "models" / "one-shipped-0-binary" / "adapter_config.json").read_text())["peft_type"]
        == "LORA"
    )
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "A pico study" in page
    assert "paper kites" in page
    assert "safety shadow: agrees" in page
    commands = [json.loads(line) for line in (run / "commands.jsonl").read_text().splitlines()]
    assert {entry["kind"] for entry in commands} == {
        "realign",
        "export",
        "merge",
        "validate",
        "evaluate",
        "choose",
        "table",
    }
    assert any(entry["command"].startswith("llamafactory-cli train") for entry in commands)
    assert "before and after" in found.stdout.lower()

    times = {path: path.stat().st_mtime_ns for path in (run / "steps").glob("*.json")}
    again = run_stock("realign", "study", config, "--cores", 2)
    assert again.returncode == 0, again.stderr
    assert "* " not in again.stdout.split("┏")[0]
    assert {path: path.stat().st_mtime_ns for path in (run / "steps").glob("*.json")} == times


def test_a_step_that_fails_is_one_line_with_its_log(config: Path, run_stock: Run) -> None:
    root = config.parent / "failing"
    found = run_stock("realign", "study", config.with_name("failing.yaml"))
    assert found.returncode == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: fails: ")
    assert str(root / "logs" / "fails.log") in last
    assert "float99" in last


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("template=lama3", "error: template: 'lama3' is unknown"),
        ("evaluate.tasks=safty", "error: evaluate.tasks: 'safty' is unknown"),
        ("modle=x", "error: "),
    ],
)
def test_a_template_or_task_that_no_host_knows_is_found_before_anything_runs(
    config: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    root = config.parent / "never"
    with pytest.raises(SystemExit) as caught:
        main(["study", str(config), f"root={root}", word])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not root.exists()


def test_the_stock_parser_takes_every_training_of_a_study(config: Path, tmp_path: Path) -> None:
    from llamafactory.hparams import parser

    values = yaml.safe_load(config.read_text())
    values["realign"]["answers"] = "safety"
    values["methods"] = {name: {} for name, method in METHODS.items() if method["kind"][0] in TRAININGS}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    plan = make_plan(tmp_path / "study.yaml", [])
    stages = set()
    for step in plan.steps.values():
        for command in step.does:
            if isinstance(command, Train):
                *_, options, _ = parser._parse_train_args(dict(command.arguments))
                stages.add(getattr(options, "real_names", {}).get("stage", options.stage))
    assert stages == {"mask_dpo", "safety_distill", "sft", "dpo"}
