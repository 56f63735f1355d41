"""On-policy data in a study: what makes them, and who learns from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.launch import build
from realign_plugin.lab.study.planning.plan import Plan
from tests.lab.study.test_launch import recipe

Values = dict[str, Any]
Planned = Callable[..., Plan]


def flags(words: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, value in zip(words, (*words[1:], ""), strict=True):
        if word.startswith("--"):
            found.setdefault(word, []).append(value)
    return found


@pytest.fixture
def given(values: Values, tmp_path: Path) -> Values:
    """A study of two tasks, one of which has on-policy data."""
    for name in ("harmful", "benign"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"prompt": name}]))
    own = {
        "kind": "on_policy", "task": "maths", "prompts": "harmful.json", "benign": ["benign.json"], "skill": "maths",
        "max_tokens": 32, "limit": 5,
    }  # fmt: skip
    data = values["data"] | {"own": own}
    return values | {"data": data, "realign": {"pairs": "pairs"}, "methods": {"paper": {}}}


def test_the_models_of_the_study_answer(given: Values, planned: Planned) -> None:
    plan = planned(given)
    step = plan.steps["data-own"]
    (words,) = step.commands
    assert words[:4] == ("realign", "data", "on-policy", "runs/it/data")
    found = flags(words)
    assert (found["--model"], found["--adapter"]) == (["org/base"], ["runs/it/models/maths"])
    assert found["--aligned"] == ["runs/it/models/aligned"]
    assert (found["--prompts"], found["--benign"]) == (["harmful.json"], ["benign.json"])
    assert found["--skill"] == ["runs/it/data/maths.jsonl"]  # a data set of the study
    assert (found["--max-tokens"], found["--limit"]) == (["32"], ["5"])
    assert set(step.needs) == {"maths", "aligned", "data-maths"}
    assert set(step.inputs) == {"harmful.json", "benign.json"}
    assert set(step.creates) == {f"runs/it/data/own{behind}.jsonl" for behind in ("", "_pairs", "_skill")}
    assert step.kind == "on_policy"


def test_where_the_base_is_aligned_no_aligned_adapter_is_asked(given: Values, planned: Planned) -> None:
    plan = planned(given | {"align": None})
    assert "--aligned" not in plan.steps["data-own"].commands[0]


def test_prompts_of_the_evaluation_are_passed_on(given: Values, planned: Planned, tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    for name in ("shadow.json", "gsm8k_train.jsonl", "xstest.csv"):
        (folder / name).write_text("[]")
    evaluate = {"tasks": "safety_shadow, over_refusal_xstest, realign_gsm8k"}
    evaluate["metadata"] = {"safety_data": "measured"}  # type: ignore[assignment]
    step = planned(given | {"evaluate": evaluate}).steps["data-own"]
    # Not the rows that the skill is learnt from, which lie there too.
    assert flags(step.commands[0])["--evaluation"] == ["measured/shadow.json", "measured/xstest.csv"]
    assert {"measured/shadow.json", "measured/xstest.csv"} <= set(step.inputs)


def test_each_task_learns_from_its_own_answers_unless_told_otherwise(given: Values, planned: Planned) -> None:
    given["data"]["other"] = {"kind": "on_policy", "task": "code", "prompts": "harmful.json", "skill": "code"}
    methods = {"distill": {}, "distill_lora": {}, "dpo": {}, "sft": {}}
    plan = planned(given | {"realign": {}, "methods": methods})
    for task, own in (("maths", "own"), ("code", "other")):
        for method in ("distill", "distill_lora"):
            found = recipe(plan, f"{task}-{method}-0")
            assert (found["dataset"], found["skill_dataset"]) == (f"{own},{own}_skill", f"{own}_skill")
            assert f"data-{own}" in plan.steps[f"{task}-{method}-0"].needs
        assert recipe(plan, f"{task}-dpo-0")["dataset"] == f"{own}_pairs"
        assert recipe(plan, f"{task}-sft-0")["dataset"] == f"{own}_pairs_chosen"
        assert f"data-{own}" in plan.steps[f"{task}-sft-0"].needs
    named = planned(given | {"realign": {"safety": "own", "skill": "own_skill", "pairs": "pairs"}, "methods": methods})
    assert recipe(named, "code-distill-0")["dataset"] == "own,own_skill"
    assert recipe(named, "code-dpo-0")["dataset"] == "pairs"
    tasks = given["tasks"] | {"code": {"dataset": "code", "safety": "other", "skill": ["other_skill"]}}
    mixed = planned(given | {"realign": {"safety": "own", "skill": "own_skill"}, "tasks": tasks, "methods": methods})
    assert recipe(mixed, "code-distill-0")["dataset"] == "other,other_skill"
    assert recipe(mixed, "maths-distill-0")["dataset"] == "own,own_skill"


def test_all_of_a_tasks_rows_stay_together_though_other_tasks_are_tuned_before(
    given: Values, planned: Planned
) -> None:
    groups = [model.group for model in planned(given).models.values()]
    assert groups == sorted(groups, key=groups.index)


def test_what_is_held_back_may_be_evaluated_on(given: Values, planned: Planned) -> None:
    train = {"safety_distill": {"eval_dataset": "own_validation, own_skill_validation"}}
    found = recipe(planned(given | {"methods": {"distill": {}}, "tasks": {"maths": {"dataset": "maths"}},
                                    "train": train}), "maths-distill-0")  # fmt: skip
    assert found["skill_dataset"] == "own_skill,own_skill_validation"


@pytest.mark.parametrize(
    ("own", "changes", "says"),
    [
        ({"prompts": "gone.json"}, {}, "data.own.prompts: gone.json is missing"),
        ({"prompts": None}, {}, "on_policy needs prompts"),
        ({"task": "mahts"}, {}, "data.own.task: 'mahts' is unknown"),
        ({"task": None}, {}, "data.own.task: is missing, expected one of maths, code"),
        ({"source": "x.json"}, {}, "on_policy has no source"),
        ({"skill": None}, {"tasks": {"maths": {"dataset": "maths"}}}, "realign.skill: is empty"),
        ({}, {"tasks": {"maths": {"dataset": "own"}, "code": {"dataset": "code"}}}, "own is made of answers of the"),
        ({}, {"realign": {"safety": "ownn", "skill": "own_skill"}}, "did you mean 'own'"),
        ({}, {"realign": {"safety": "own", "skill": "own_skil"}}, "did you mean 'own_skill'"),
        ({"validation": 0}, {"realign": {"safety": "own_validation", "skill": "own_skill"}}, "holds nothing back"),
        ({}, {"adaptation": "full"}, "adaptation is full"),
        ({"prompts": "own"}, {}, "own is on-policy data"),
    ],
)
def test_a_mistake_is_one_line(given: Values, planned: Planned, own: Values, changes: Values, says: str) -> None:
    merged = {key: value for key, value in (given["data"]["own"] | own).items() if value is not None}
    with pytest.raises(UserError) as caught:
        planned(given | {"methods": {"distill": {}}} | changes | {"data": given["data"] | {"own": merged}})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_kinds_do_not_take_the_options_of_on_policy_data(values: Values, planned: Planned) -> None:
    values["data"]["pairs"] = {"kind": "preference", "benign": "x.json"}
    with pytest.raises(UserError, match="preference has no benign"):
        planned(values)


def test_the_users_data_set_that_a_share_counts_with_is_watched(values: Values, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rows.json").write_text("[]")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    mix = {"kind": "sft", "task": "harmful", "source": "org/x", "share": 0.1, "of": "rows"}
    given = parse(values | {"dataset_dir": "mine", "data": values["data"] | {"mix": mix}})
    before = build(given, tmp_path).steps["data-mix"]
    (folder / "rows.json").write_text("[1]")
    after = build(given, tmp_path).steps["data-mix"]
    assert before.inputs == ("mine/rows.json",)
    assert before.fingerprint not in after.fingerprints
    assert before.fingerprints[-1] == after.fingerprints[-1]
