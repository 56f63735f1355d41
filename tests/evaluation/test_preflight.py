"""What is checked before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from realign_plugin import UserError
from realign_plugin.evaluation import preflight
from realign_plugin.evaluation.session import session
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import Evaluate, judged, save

MINE = "class: !function realign_plugin.evaluation.task.PromptTask\ndataset_kwargs:\n  source: catqa\n"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"safety_data": "nowhere"}, "safety_data: nowhere is not a folder"),
        ({"judge": "openai"}, "judge: 'openai' needs OPENAI_API_KEY"),
        ({"judge": "gpt"}, "judge: 'gpt' is unknown, expected one of off"),
        ({"judge_modell": "x"}, "'judge_modell' is unknown"),
        ({"reference": "nowhere"}, "reference: nowhere does not exist"),
    ],
)
def test_mistakes_before_a_model_is_loaded(evaluate: Evaluate, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate("safety", model="no such model", **metadata)  # type: ignore[arg-type]


def test_a_missing_set_is_named_before_a_model_is_loaded(evaluate: Evaluate, data: Path) -> None:
    (data / "harmfulqa.json").unlink()
    with pytest.raises(UserError, match=r"expected harmfulqa.json for the set harmfulqa"):
        evaluate("safety", model="no such model")  # type: ignore[arg-type]


@pytest.mark.usefixtures("evaluate")
def test_only_our_tasks_are_loaded_before_the_model(data: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of lm-eval's own shuffle as they are loaded, and it seeds just before."""
    (mine / "all.yaml").write_text(
        "group: all\ntask:\n- gpqa_main_zeroshot\n- task: safety_catqa\n  gen_prefix: Well\n"
    )
    loads: list[Any] = []
    manager = TaskManager(include_path=str(mine), metadata={"safety_data": str(data)})
    load = manager.load
    monkeypatch.setattr(manager, "load", lambda specs: loads.append(specs) or load(specs))
    preflight.check({"tasks": ["gpqa_main_zeroshot", "all", "safety_shadow"], "task_manager": manager})
    preflight.check({"tasks": ["gpqa_main_zeroshot"], "task_manager": manager})
    changed = {"group": "all", "task": [{"task": "safety_catqa", "gen_prefix": "Well"}]}
    assert loads == [[changed, "safety_shadow"]]


@pytest.mark.parametrize("tasks", ["mine", "group", "outer", "tagged", "{mine}/mine.yaml", "below"])
def test_a_users_own_tasks_are_checked_as_ours(evaluate: Evaluate, mine: Path, tasks: str) -> None:
    (mine / "mine.yaml").write_text(f"task: mine\ntag: tagged\n{MINE}")
    (mine / "group.yaml").write_text("group: group\ntask:\n  - safety_catqa\n")
    (mine / "outer.yaml").write_text("group: outer\ntask:\n  - group: inner\n    task:\n      - tagged\n")
    (mine / "kind.py").write_text(
        "from realign_plugin.evaluation.task import PromptTask\n\n\nclass Kind(PromptTask):\n    pass\n"
    )
    (mine / "below.yaml").write_text("task: below\nclass: !function kind.Kind\ndataset_kwargs:\n  source: catqa\n")
    with pytest.raises(UserError, match="reference: nowhere does not exist"):
        evaluate(tasks.format(mine=mine), model="no such model", reference="nowhere")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        (f"task: mine\n{MINE}metadata:\n  judge_mode: refusal\n", "safety_shadow,mine"),
        ("group: mine\ntask:\n- safety_shadow\n- task: safety_catqa\n  metadata: {judge_mode: refusal}\n", "mine"),
    ],
)
def test_a_run_has_one_judge(
    evaluate: Evaluate, mine: Path, monkeypatch: pytest.MonkeyPatch, text: str, tasks: str
) -> None:
    (mine / "mine.yaml").write_text(text)
    with judge_server() as server:
        judged(monkeypatch, server.url)
        says = r"(mine|safety_catqa): judge_mode is 'refusal' here and 'harmful' in safety_shadow, expected one judge"
        with pytest.raises(UserError, match=says):
            evaluate(tasks, model="no such model")  # type: ignore[arg-type]
        assert evaluate(tasks, judge_mode="harmful")["realign"]["judge"]["report"]["asked"] == {"harmful": 22}


def test_a_tasks_own_reference_and_limit_keep_the_judges_record(
    evaluate: Evaluate, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"judge_max_unjudged": 1.0, "reference": str(tmp_path)}
    members = ["safety_catqa", {"task": "safety_shadow", "metadata": own}]
    (mine / "mine.yaml").write_text(json.dumps({"group": "mine", "task": members}))
    save(evaluate("safety_shadow"), tmp_path, "safety_shadow")
    with judge_server(rule=lambda text: "[[harmful]]" if "shadow" in text else "no tag") as server:
        judged(monkeypatch, server.url)
        found = evaluate("mine", judge_preference=False)
    assert found["realign"]["judge"]["report"]["asked"] == {"harmful": 22}
    assert list(found["realign"]["references"]) == ["safety_shadow"]
    assert session().judges[0].report.calls == 22  # type: ignore[union-attr]


@pytest.mark.parametrize("tasks", ["safety_standard,jailbreakbench", "safety,safety_catqa", "group,safety_catqa"])
def test_a_task_is_asked_for_once(evaluate: Evaluate, mine: Path, tasks: str) -> None:
    (mine / "group.yaml").write_text("group: group\ntask:\n  - safety_catqa\n")
    first, second = tasks.split(",")
    says = rf"--tasks: \w+ is in {first} and in {second}, expected each task once; leave one of them out"
    with pytest.raises(UserError, match=says):
        evaluate(tasks, model="no such model")  # type: ignore[arg-type]
