"""The study that a repair writes can be planned, and trains as the repair does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.errors import UserError
from realign_plugin.lab.repair.as_study import as_study
from realign_plugin.lab.repair.command import Request, repair
from realign_plugin.lab.repair.plan import METHODS, Folders
from realign_plugin.lab.repair.training import options
from realign_plugin.lab.study.launch import make_plan
from realign_plugin.lab.study.planning.plan import Plan
from tests.lab.study.test_launch import recipe


@pytest.fixture(autouse=True)
def detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the detection finds, without LLaMA-Factory's import."""
    monkeypatch.setattr("realign_plugin.training.template_choice.template_of", lambda base: "qwen")


def planned(given: dict[str, Any], **changes: Any) -> Plan:
    """The plan of the study that a repair writes."""
    file = given["out"].with_name("study.yaml")
    repair(Request(**(given | changes), write_study=file))
    return make_plan(file, [])


def test_without_rows_of_the_skill(given: dict[str, Any]) -> None:
    plan = planned(given, skill=None)
    for method in ("distill", "distill_lora"):
        found = recipe(plan, f"tuned-{method}-0")
        assert (found["dataset"], found["distill_skill_weight"], "skill_dataset" in found) == ("own", 0.0, False)
    assert "distill_skill_weight" not in recipe(planned(given), "tuned-distill-0")


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("微调", "repair"),
        ("Modèle v2", "modele_v2"),
        ("fused", "fused_task"),
        ("Base", "base_task"),
        ("a-b.c", "a_b_c"),
    ],
)
def test_the_tasks_name_is_one_that_a_study_takes(given: dict[str, Any], folder: str, task: str) -> None:
    adapter = shutil.copytree(given["adapter"], given["out"].with_name(folder))
    assert f"{task}-distill-0" in planned(given, adapter=adapter).steps


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_trainings_are_the_repairs(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, dtype: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    base = shutil.copytree(given["base"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"dtype": dtype}
    (base / "config.json").write_text(json.dumps(config))
    given |= {"base": str(base)}
    plan, inputs = planned(given), Request(**given).inputs()
    ours = {"dataset", "dataset_dir", "output_dir", "skill_dataset", "data_seed", "preprocessing_num_workers"}
    ours |= {"logging_steps", "save_steps", "disable_gradient_checkpointing", "use_cpu"}
    for method, step in zip(METHODS, ("tuned-distill-0", "tuned-distill_lora-0"), strict=True):
        mine, found = options(inputs, Folders(tmp_path), method, "qwen", skill=True), recipe(plan, step)
        assert {key: found.get(key) for key in mine.keys() - ours} == {key: mine[key] for key in mine.keys() - ours}
        assert (found["bf16"], found.get("use_cpu")) == (dtype != "float32", None if cuda else True)
        assert (found["warmup_ratio"], found["gradient_accumulation_steps"]) == (0.0, 1)  # a training's own defaults


def test_it_has_the_template_of_its_own_base(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    file = Folders(given["out"]).work / "template.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"template": "gemma"}))  # of a repair that is there
    (file.parent / "inputs.json").write_text("{}")
    assert planned(given).config["template"] == "qwen"
    assert planned(given, template="llama3").config["template"] == "llama3"

    def unknown(base: str) -> str:
        raise UserError(f"--template: none renders as {base} does")

    monkeypatch.setattr("realign_plugin.training.template_choice.template_of", unknown)
    with pytest.raises(UserError, match="--template: none renders"):
        planned(given)


def test_a_repair_writes_the_template_that_it_trained_with(given: dict[str, Any]) -> None:
    inputs = Request(**given).inputs()
    for name in ("chatml", None):  # None: what LLaMA-Factory reads off the tokenizer
        text = as_study(inputs, given["out"], "study.yaml", name, False)
        assert yaml.safe_load(text).get("template") == name


def test_sources_that_are_not_there(given: dict[str, Any]) -> None:
    for option in ("prompts", "test_benign"):
        with pytest.raises(UserError, match=f"^--{option.replace('_', '-')}: nowhere.json does not exist"):
            planned(given, **{option: ["nowhere.json"]})
    assert not given["out"].with_name("study.yaml").exists()
