"""What a configuration becomes: who is trained on what, in which order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.errors import UserError
from realign_plugin.lab.study.launch import alone, profile_folder
from realign_plugin.lab.study.planning.plan import Plan

Values = dict[str, Any]
Planned = Callable[..., Plan]


def recipe(plan: Plan, name: str) -> dict[str, Any]:
    (text,) = plan.steps[name].files.values()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_each_training_goes_on_from_the_right_model(values: Values, planned: Planned) -> None:
    plan = planned(values)
    first, second = recipe(plan, "aligned-1-sft"), recipe(plan, "aligned")
    assert "adapter_name_or_path" not in first
    assert second["adapter_name_or_path"] == second["ref_model_adapters"] == "runs/it/models/aligned-1-sft"
    assert recipe(plan, "maths")["adapter_name_or_path"] == "runs/it/models/aligned"
    masked = recipe(plan, "maths-shipped-0")
    assert (masked["stage"], masked["finetuning_type"]) == ("mask_dpo", "safety_subspace")
    assert (masked["aligned_adapter"], masked["task_adapters"]) == ("runs/it/models/aligned", ["runs/it/models/maths"])
    assert masked["mask_estimator"] == "straight_through"
    second = recipe(plan, "maths-sft_dpo-0")
    assert second["stage"] == "dpo"
    assert second["adapter_name_or_path"] == second["ref_model_adapters"] == "runs/it/models/maths-sft_dpo-0-1-sft"
    assert recipe(plan, "maths-sft_dpo-0-1-sft")["adapter_name_or_path"] == "runs/it/models/maths"


def test_steps_need_what_they_read(values: Values, planned: Planned) -> None:
    plan = planned(values, fusion={"methods": {"ties": {}}})
    needs = {name: set(step.needs) for name, step in plan.steps.items()}
    assert needs["aligned-1-sft"] == {"data-answers"}
    assert needs["maths"] == {"data-maths", "aligned"}
    assert needs["maths-paper-0"] == {"data-pairs", "maths", "aligned"}
    assert needs["export-maths-paper-0"] == {"maths-paper-0"}
    assert needs["merge-maths-resta"] == {"maths", "aligned"}
    assert needs["fused-ties-paper-0"] == {"data-pairs", "maths", "code", "aligned"}
    assert needs["evaluate-maths-paper-0-soft"] == {
        "export-maths-paper-0",
        "aligned",  # the tokenizer is the aligned one's
        "evaluate-aligned",  # and so are the answers that its own are compared with
    }
    assert "tokenizer=runs/it/models/aligned" in plan.steps["evaluate-base"].commands[0][4]
    assert needs["table-main"] == {name for name in needs if name.startswith("evaluate-")}
    order = [step.name for step in plan.wanted(["main"])]
    assert all(order.index(need) < order.index(name) for name in order for need in needs[name])


def test_whole_checkpoints_are_merged_where_adapters_are_exported(values: Values, planned: Planned) -> None:
    plan = planned(values, adaptation="full", fusion={"methods": {"dare": {"options": {"dare_drop_rate": 0.3}}}})
    masked = recipe(plan, "maths-paper-0")
    assert masked["model_name_or_path"] == "runs/it/models/aligned"
    assert masked["task_models"] == ["runs/it/models/maths"]
    assert "aligned_adapter" not in masked
    assert recipe(plan, "aligned")["ref_model"] == recipe(plan, "aligned")["model_name_or_path"]
    document = yaml.safe_load(plan.steps["export-maths-paper-0"].files["runs/it/steps/maths-paper-0-soft.yaml"])
    assert document["merge_method"] == "safety_subspace"
    assert document["base_model"] == "./runs/it/models/aligned"
    assert document["models"] == [{"model": "./runs/it/models/maths"}]
    (fused,) = (yaml.safe_load(text) for text in plan.steps["fused-dare"].files.values())
    assert [m["parameters"] for m in fused["models"]] == [{"weight": 0.3, "density": 0.7}] * 2
    assert plan.models["maths-paper-0-soft"].peft is None


def test_merges_of_adapters(values: Values, planned: Planned) -> None:
    plan = planned(values)
    (resta,) = (yaml.safe_load(text) for text in plan.steps["merge-maths-resta"].files.values())
    assert [m["model"] for m in resta["models"]] == [
        "org/base+./runs/it/models/maths", "org/base+./runs/it/models/aligned",
    ]  # fmt: skip
    assert resta["base_model"] == "org/base"
    (safe,) = (yaml.safe_load(text) for text in plan.steps["merge-maths-safe_lora"].files.values())
    assert safe["parameters"]["aligned_adapter"] == "./runs/it/models/aligned"


def test_an_instruct_base_needs_the_model_before_alignment_for_some(
    values: Values, planned: Planned, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    given = values | {"align": None, "tasks": {"maths": {"adapter": "mine"}}}
    with pytest.raises(UserError, match="unaligned: MODEL"):
        planned(given)
    plan = planned(given, unaligned="org/pretrained")
    (resta,) = (yaml.safe_load(text) for text in plan.steps["merge-maths-resta"].files.values())
    assert (resta["base_model"], resta["models"][1]["model"]) == ("org/pretrained", "org/base")
    (safe,) = (yaml.safe_load(text) for text in plan.steps["merge-maths-safe_lora"].files.values())
    assert safe["models"] == [{"model": "org/pretrained", "parameters": {"role": "unaligned"}}]
    assert "aligned_adapter" not in recipe(plan, "maths-paper-0")
    assert planned(given, methods={"interpolation": {}}).steps["merge-maths-interpolation"]


def test_several_strengths_are_chosen_among_on_other_prompts(values: Values, planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "catqa.json").write_text("[]")
    plan = planned(
        values,
        methods={"resta": {"strengths": [0.1, 0.5]}},
        evaluate={"tasks": "safety", "choose": {"metadata": {"safety_data": "validation"}}},
    )
    (step,) = (plan.steps[f"choose-{task}-resta"] for task in ("maths",))
    assert step.needs == ("evaluate-choose-maths-resta-s0.1", "evaluate-choose-maths-resta-s0.5")
    assert '"validation"' in " ".join(plan.steps[step.needs[0]].commands[0])
    assert "validation/catqa.json" in plan.steps[step.needs[0]].inputs
    assert plan.steps["evaluate-maths-resta"].needs[0] == "choose-maths-resta"
    assert '"validation"' not in " ".join(plan.steps["evaluate-maths-resta"].commands[0])
    assert "maths-resta-s0.1" not in plan.models


def test_seeds_repeat_trainings_but_no_merges(values: Values, planned: Planned) -> None:
    plan = planned(values, seeds=2)
    labels = [m.label for m in plan.models.values() if m.group == "maths"]
    assert labels.count("realigned (soft)") == labels.count("realigned (soft), seed 1") == 1
    assert recipe(plan, "maths-paper-1")["seed"] == 1
    assert [label for label in labels if label.startswith("RESTA")] == ["RESTA (0.5)"]


def test_models_share_a_process_where_asked(values: Values, planned: Planned) -> None:
    plan = planned(values, evaluate={"models_per_job": 5, "options": {"limit": 3, "confirm_run_unsafe_code": True}})
    sizes = [len(step.commands) for step in plan.steps.values() if step.kind == "evaluate"]
    assert max(sizes) == 5
    assert sum(sizes) == len(plan.models)
    words = plan.steps["evaluate-base"].commands[0]
    assert words[words.index("--limit") + 1] == "3"
    assert "--confirm_run_unsafe_code" in words


def test_realignment_by_sft_learns_the_chosen_answers_of_the_very_same_pairs(values: Values, planned: Planned) -> None:
    plan = planned(values | {"realign": {"pairs": "pairs"}})
    assert recipe(plan, "maths-sft_dpo-0-1-sft")["dataset"] == "pairs_chosen"
    assert "data-pairs" in plan.steps["maths-sft_dpo-0-1-sft"].needs
    with pytest.raises(UserError, match=r"realign\.answers: is empty"):
        planned(values | {"realign": {"pairs": "own"}, "dataset_dir": _own_data(Path(plan.cwd))})


def _own_data(folder: Path) -> str:
    (folder / "own").mkdir()
    (folder / "own" / "own.json").write_text("[]")
    names = ("own", "answers", "maths", "code")
    info = {name: {"file_name": f"{name}.json", "ranking": name == "own"} for name in names}
    (folder / "own" / "dataset_info.json").write_text(json.dumps(info))
    return "own"


def test_what_the_user_gives_is_watched_and_not_replaced(values: Values, planned: Planned, tmp_path: Path) -> None:
    for name in ("aligned_lora", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text(name)
    given = values | {
        "align": {"adapter": "aligned_lora"}, "tasks": {"maths": {"adapter": "mine"}},
        "realign": {"pairs": "own"}, "dataset_dir": _own_data(tmp_path), "methods": {"paper": {}, "resta": {}},
        "data": {"more": {"kind": "contrast", "refusals": "no.txt", "source": "own/own.json"}},
    }  # fmt: skip
    (tmp_path / "mine" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "no.txt").write_text("No.")
    plan = planned(given)
    mine = {"mine/adapter_model.safetensors", "mine/chat_template.jinja"}
    adapters = {"aligned_lora/adapter_model.safetensors", *mine}
    assert set(plan.steps["maths-paper-0"].inputs) == {*adapters, "own/own.json"}
    assert set(plan.steps["merge-maths-resta"].inputs) == adapters
    assert set(plan.steps["evaluate-maths"].inputs) == mine
    assert set(plan.steps["data-more"].inputs) == {"own/own.json", "no.txt"}
    assert "--overwrite" not in plan.steps["data-more"].commands[0]


def test_an_average_of_checkpoints_has_the_weight_that_the_training_has(values: Values, planned: Planned) -> None:
    plan = planned(values, adaptation="full", fusion={"methods": {"average": {}, "task_arithmetic": {}}})
    (average,) = (yaml.safe_load(text) for text in plan.steps["fused-average"].files.values())
    assert average["merge_method"] == "task_arithmetic"
    assert [m["parameters"]["weight"] for m in average["models"]] == [0.5, 0.5]
    assert average["base_model"] == "./runs/it/models/aligned"


def test_two_things_of_one_name_are_refused(values: Values, planned: Planned) -> None:
    values["tasks"] = {"a": {"dataset": "maths"}, "b": {"dataset": "code"}}
    values["methods"] = {"ties": {}, "paper": {}}
    assert planned(values, fusion={"methods": {"ties": {}}})
    with pytest.raises(UserError, match="have this name"):
        planned(values, prepare=[{"name": "a", "command": "true"}])


def test_a_change_of_columns_or_rule_makes_tables_and_choices_again(values: Values, planned: Planned) -> None:
    methods = {"resta": {"strengths": [0.1, 0.5]}}
    column = {"task": "safety", "metric": "refusal_rate", "label": "refused", "axis": "safety", "better": "higher"}
    evaluate = {"tasks": "safety", "choose": {"tasks": "safety_catqa"}, "columns": [column]}
    first = planned(values, methods=methods, evaluate=evaluate)
    other = planned(values, methods=methods, evaluate=evaluate | {"columns": [column | {"better": "lower"}]})
    for name in ("choose-maths-resta", "table-main"):
        assert first.steps[name].fingerprint != other.steps[name].fingerprint
    assert first.steps["maths"].fingerprint == other.steps["maths"].fingerprint
    renamed = planned(values, methods=methods, evaluate=evaluate, tasks={"maths": {"dataset": "maths", "label": "M"}})
    assert first.steps["table-main"].fingerprint != renamed.steps["table-main"].fingerprint


def test_a_folder_that_is_no_study_is_not_taken(values: Values, planned: Planned, tmp_path: Path) -> None:
    plan = planned(values)
    (plan.folder / "models" / "maths").mkdir(parents=True)
    with pytest.raises(UserError, match="holds models, but no study"), alone(plan):
        pass
    (plan.folder / "plan.json").write_text("{}")
    with alone(plan), pytest.raises(UserError, match="another process works on"), alone(plan):
        pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": {}}, "tasks: is empty"),
        ({"tasks": {"a-b": {"dataset": "maths"}}}, "a-b"),
        ({"tasks": {"maths": {"dataset": "mahts"}}}, "did you mean 'maths'"),
        ({"tasks": {"maths": {}}}, "expected adapter or dataset"),
        ({"tasks": {"maths": {"adapter": "gone"}}}, "gone is missing"),
        ({"tasks": {"maths": {"dataset": "maths", "methods": ["papre"]}}}, "did you mean 'paper'"),
        ({"align": {"adapter": "gone"}}, "gone is missing"),
        ({"align": {}}, "expected adapter or steps"),
        ({"align": {"model": "x", "steps": []}}, "expected align.adapter"),
        ({"realign": {}}, "realign.pairs"),
        (
            {"realign": {"pairs": "pairs_validation"}, "data": {"pairs": {"kind": "preference", "validation": 0}}},
            "holds nothing back",
        ),
        ({"tasks": {"base": {"dataset": "maths"}}}, "rename the task"),
        ({"tasks": {"a": {"dataset": "maths"}, "a_b": {"dataset": "code"}}, "methods": {"b c": {}}}, "'b c'"),
        ({"prepare": [{"name": "a b", "command": "true"}]}, "'a b'"),
        ({"methods": {"resta": {"strengths": [0.1, 0.5]}}}, "expected evaluate.choose"),
        ({"methods": {"resta": {"strengths": [0.3, 0.30000001]}}}, "differ in six digits"),
        ({"methods": {"mine": {"kind": ""}}}, "methods"),
        ({"methods": {"paper": {"seeds": [7]}}, "ablations": {"transfer": None}}, "lacks 0"),
        ({"fusion": {"methods": {"dare": {"options": {"dare_drop_rate": "half"}}}}}, "expected a number"),
        ({"fusion": {"methods": {"ties": {"options": {"task_weight": [1, 2, 3]}}}}}, "3 numbers for 2 tasks"),
        (
            {"fusion": {"methods": {"ties": {"options": {"ties_density": 5}}}}},
            "ties.options: ties_density: 5 is out of",
        ),
        ({"fusion": {"methods": {"dare": {"options": {"ties_density": 1}}}}}, "fusion_method is dare, not ties"),
        ({"train": {"all": {"eval_dataset": 3}}}, "expected names of data sets"),
        ({"ablations": {"strength": {"values": ["x"]}}}, "out of range"),
        (
            {
                "ablations": {"data_efficiency": {"values": [50]}},
                "data": {"pairs": {"kind": "preference", "limit": 20}},
            },
            "which has 20",
        ),
        ({"realign": {"pairs": "pears", "answers": "answers"}}, "did you mean 'pairs'"),
        ({"fusion": {"tasks": ["maths"], "methods": {"ties": {}}}}, "expected two tasks"),
        ({"fusion": {"methods": {"tie": {}}}}, "did you mean 'ties'"),
        ({"fusion": {"methods": {"ties": {"options": {"density": 1}}}}}, "ties_density"),
        ({"fusion": {"methods": {"ties": {}}, "realign": "resta"}}, "expected a method of mask_dpo or safety_distill"),
        ({"unaligned": "org/other"}, "leave it out"),
        ({"data": {"pairs": {"kind": "preference", "source": "gone.json"}}}, "gone.json is missing"),
        ({"prepare": [{"name": "x"}]}, "either a command or train"),
        ({"prepare": [{"name": "x", "train": {"stage": "sft"}}]}, "output_dir is missing"),
        ({"ablations": {"transfer": {"tasks": ["maths"]}}}, "expected two or more"),
        ({"ablations": {"granularity": {"values": ["rows"]}}}, "did you mean 'row'"),
        ({"ablations": {"mask_kind": {"methods": ["sft_dpo"]}}}, "expected one of paper"),
        ({"ablations": {"poisoning": {"shares": [1.5]}}}, "out of range"),
        ({"adaptation": "full", "ablations": {"transfer": None}}, "works on LoRA adapters"),
    ],
)
def test_a_mistake_is_one_line(values: Values, planned: Planned, changes: Values, says: str) -> None:
    data = values["data"] | changes.get("data", {})
    with pytest.raises(UserError) as caught:
        planned(values | changes | {"data": data})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_sets_of_the_users_own_are_looked_up(values: Values, planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "runs/it/data").mkdir(parents=True)
    (tmp_path / "runs/it/data/dataset_info.json").write_text('{"own_pairs": {"file_name": "x.json"}}')
    plan = planned(values | {"realign": {"pairs": "own_pairs", "answers": "answers"}})
    assert set(plan.steps["maths-paper-0"].needs) == {"maths", "aligned"}
    with pytest.raises(UserError, match="did you mean 'own_pairs'"):
        planned(values | {"realign": {"pairs": "ownpairs", "answers": "answers"}})


def test_profiles_have_names(tmp_path: Path) -> None:
    assert profile_folder("slurm").name == "slurm"
    (tmp_path / "config.yaml").write_text("cores: 1\n")
    assert profile_folder(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="did you mean 'slurm'"):
        profile_folder("slurn")
