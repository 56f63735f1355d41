"""What is found before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.checks import check
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.launch import make_plan

COLUMN = {"task": "realign_gsm8k", "metric": "exact_match", "label": "maths", "axis": "skill"}


@pytest.fixture
def given(lab: Path) -> dict[str, Any]:
    """A study of given adapters that has nothing wrong."""
    return {
        "root": "runs/it", "model": str(lab / "base"), "align": {"adapter": str(lab / "aligned")},
        "tasks": {"one": {"adapter": str(lab / "task1")}}, "evaluate": {"tasks": "safety"},
    }  # fmt: skip


def test_a_sound_study_passes(given: dict[str, Any]) -> None:
    check(parse(given))


def test_what_a_study_decides_is_open_in_the_users_own_steps(given: dict[str, Any]) -> None:
    own = {"name": "own", "train": {"stage": "sft", "finetuning_type": "full", "output_dir": "x", "dataset": "y"}}
    check(parse(given | {"prepare": [own]}))


def test_answers_are_asked_for_with_the_template_that_is_trained(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"own": {"kind": "on_policy", "prompts": "x"}}
    given |= {"template": "chatml", "align": {"steps": [{"stage": "sft", "dataset": "x"}]}, "data": own}
    with pytest.raises(UserError, match=r"data\.own: is asked with the chat template of .* measured with chatml"):
        check(parse(given))
    check(parse(given | {"data": {}}))
    check(parse(given | {"align": None}))
    check(parse(given | {"template": "llama3"}))  # with which the host leaves the tokenizer's own
    monkeypatch.setattr("realign_plugin.training.template_choice.template_of", lambda model: "chatml")
    check(parse(given))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unaligned": "./gone"}, "unaligned: ./gone"),
        ({"evaluate": {"options": {"include_path": "gone"}}}, "evaluate.options.include_path: gone"),
        ({"evaluate": {"model_args": {"tokenizer": "/gone"}}}, "evaluate.model_args.tokenizer: /gone"),
        ({"evaluate": {"metadata": {"reference": "gone"}}}, "evaluate.metadata.reference: gone"),
        ({"evaluate": {"choose": {"metadata": {"reference": "gone"}}}}, "evaluate.choose.metadata.reference: gone"),
        ({"train": {"all": {"deepspeed": "gone.json"}}}, "train.all.deepspeed: gone.json"),
        ({"methods": {"paper": {"train": {"fsdp_config": "gone"}}}}, "methods.paper.train.fsdp_config: gone"),
        ({"align": {"model": "gone"}, "adaptation": "full"}, "align.model: gone"),
        ({"tasks": {"one": {"model": "gone"}}, "adaptation": "full"}, "tasks.one.model: gone"),
    ],
)
def test_a_place_that_is_missing(given: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    given |= {"evaluate": {"tasks": "safety"} | changes.pop("evaluate", {})} | changes
    with pytest.raises(UserError) as caught:
        check(parse(given))
    assert str(caught.value) == f"{says} is missing, expected a file or a folder; check the path"
    check(parse(given | {"prepare": [{"name": "fetch", "command": "true"}]}))


def test_places_that_need_not_be_there(given: dict[str, Any]) -> None:
    given["evaluate"] |= {"metadata": {"reference": "runs/it/results/aligned"}}
    given |= {"unaligned": "some/hub-id", "train": {"all": {"deepspeed": {"zero_optimization": {"stage": 2}}}}}
    given["train"]["lora"] = {"deepspeed": '{"zero_optimization": {"stage": 2}}'}
    check(parse(given))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"mask_dpo": {"max_step": 3}}}, "train.mask_dpo: 'max_step' is unknown"),
        ({"tasks": {"one": {"adapter": "{task1}", "train": {"lerning_rate": 1}}}}, "tasks.one.train: 'lerning_rate'"),
        ({"train": {"all": {"dataset": "x"}}}, "train.all.dataset: 'x', expected none: decided by the data sets of"),
        (
            {"tasks": {"one": {"adapter": "{task1}", "train": {"output_dir": "x"}}}},
            "tasks.one.train.output_dir: 'x', expected none: decided by root; leave it out",
        ),
        ({"methods": {"sft": {"train": {"finetuning_type": "full"}}}}, "decided by adaptation"),
        ({"evaluate": {"model_args": {"pretrained": "x"}}}, "evaluate.model_args.pretrained: 'x', expected none"),
        ({"evaluate": {"options": {"log_samples": False}}}, "evaluate.options.log_samples: False, expected none"),
        ({"evaluate": {"options": {"tasks": "x"}}}, "decided by evaluate.tasks"),
        (
            {"evaluate": {"columns": [COLUMN], "choose": {"columns": ["math"]}}},
            "evaluate.choose.columns: 'math' is unknown, expected one of maths",
        ),
        ({"evaluate": {"options": {"limmit": 1}}}, "evaluate.options: 'limmit' is unknown"),
        ({"evaluate": {"metadata": {"safty_data": "x"}}}, "did you mean 'safety_data'"),
        ({"evaluate": {"metadata": {"safety_data": "gone"}}}, "gone is not a folder"),
        ({"evaluate": {"inputs": ["gone.py"]}}, "evaluate.inputs: gone.py is missing"),
        (
            {"evaluate": {"tasks": "safety,safety_catqa"}},
            "evaluate.tasks: safety_catqa is in safety and in safety_catqa",
        ),
        ({"evaluate": {"tasks": "safty"}}, "evaluate.tasks: 'safty' is unknown"),
        ({"model": "./nowhere"}, "nowhere is missing"),
        ({"model": "{empty}"}, "holds no config.json"),
        ({"model": "{untokenised}"}, "holds no tokenizer_config.json"),
        ({"model": "{untemplated}"}, "no chat template"),
        (
            {"model": "{untemplated}", "template": "llama3", "data": {"own": {"kind": "on_policy", "prompts": "x"}}},
            "data.own: the tokenizer of",
        ),
        (
            {
                "template": "alpaca",
                "align": {"steps": [{"stage": "sft", "dataset": "x"}]},
                "data": {"own": {"kind": "on_policy", "prompts": "x"}},
            },
            "trained and measured with alpaca",
        ),
        ({"tasks": {"one": {"adapter": "{empty}"}}}, "tasks.one.adapter: "),
        ({"tasks": {"one": {"adapter": "{aligned}"}}}, "the task vector is 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    given: dict[str, Any], lab: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    places = {name: tmp_path / name for name in ("empty", "untokenised", "untemplated")}
    for folder in places.values():
        folder.mkdir()
    for name in ("untokenised", "untemplated"):
        shutil.copy(lab / "base" / "config.json", places[name])
    (places["untemplated"] / "tokenizer_config.json").write_text("{}")
    places |= {"task1": lab / "task1", "aligned": lab / "aligned"}
    text = json.dumps(given | changes)
    for name, folder in places.items():
        text = text.replace("{" + name + "}", str(folder))
    with pytest.raises(UserError) as caught:
        check(parse(json.loads(text)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"methods": {"paper": {"train": {"mask_granularity": "elemnt"}}}},
            "m-paper-0: mask_granularity: 'elemnt' is",
        ),
        ({"train": {"mask_dpo": {"mask_temperature": -1}}}, "m-paper-0: mask_temperature: -1 is out of range"),
        (
            {"methods": {"distill": {"train": {"distill_divergence": "forwrd"}}}},
            "m-distill-0: distill_divergence: 'forw",
        ),
        ({"methods": {"distill": {}}, "realign": {"safety": "s", "skill": "s"}}, "m-distill-0: dataset: s are all in"),
        (
            {"methods": {"paper": {"train": {"distill_temperature": 2}}}},
            "m-paper-0: distill_temperature: 2, expected none",
        ),
        ({"train": {"all": {"mask_noise": 1.0}}}, "m: mask_noise: 1.0, expected none"),
    ],
)
def test_values_of_our_own_options_are_checked_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    file = tmp_path / "study.yaml"
    data = {name: {"kind": "sft", "task": "gsm8k"} for name in ("s", "k")} | {"p": {"kind": "preference"}}
    study: dict[str, Any] = {
        "root": "runs/it", "model": "org/base", "data": data, "tasks": {"m": {"dataset": "k"}},
        "methods": {"paper": {}, "distill": {}}, "realign": {"pairs": "p", "safety": "s", "skill": "k"},
    }  # fmt: skip
    file.write_text(json.dumps(study))
    make_plan(file, ())
    file.write_text(json.dumps(study | changes))
    with pytest.raises(UserError) as caught:
        make_plan(file, ())
    assert str(caught.value).startswith(says)
