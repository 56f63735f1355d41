from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.loading import load, parse
from realign_plugin.lab.study.launch import build

EXAMPLES = Path(__file__).parents[4] / "examples"


def message(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lists_may_be_texts_with_commas(values: dict[str, Any]) -> None:
    config = parse(values | {"realign": {"pairs": "a, b,c"}, "seeds": 3})
    assert config.realign.pairs == ["a", "b", "c"]
    assert config.seeds == [0, 1, 2]
    assert parse(values | {"seeds": [4, 7]}).seeds == [4, 7]


def test_a_name_alone_asks_for_its_defaults(values: dict[str, Any]) -> None:
    config = parse(values | {"methods": {"paper": None}, "ablations": {"transfer": None}})
    assert config.methods["paper"].kind == []
    assert config.ablations.transfer is not None
    assert config.ablations.topics is None


@pytest.mark.parametrize(
    ("changes", "key", "near"),
    [
        ({"modle": "x"}, "modle", "model"),
        ({"evaluate": {"task": "safety"}}, "evaluate.task", "tasks"),
        ({"tasks": {"maths": {"datset": "maths"}}}, "tasks.maths.datset", "dataset"),
        ({"methods": {"paper": {"mask": "soft"}}}, "methods.paper.mask", "masks"),
        ({"fusion": {"methods": {"ties": {"option": {}}}}}, "fusion.methods.ties.option", "options"),
        ({"align": {"steps": [{"stage": "sft", "dataset": "a", "trian": {}}]}}, "align.steps.0.trian", "train"),
        ({"ablations": {"poisonning": {}}}, "ablations.poisonning", "poisoning"),
    ],
)
def test_a_key_that_is_misspelt_names_the_nearest(
    values: dict[str, Any], changes: dict[str, Any], key: str, near: str
) -> None:
    text = message(values | changes)
    assert repr(key) in text
    assert f"did you mean {near!r}?" in text


def test_wrong_values_are_named(values: dict[str, Any]) -> None:
    assert "adaptation: 'qlora'" in message(values | {"adaptation": "qlora"})
    assert "'root' is missing" in message({k: v for k, v in values.items() if k != "root"})
    assert "seeds.0: -1 is not allowed" in message(values | {"seeds": [-1]})
    assert "seeds: [1, 1] is not allowed: a seed is there twice" in message(values | {"seeds": [1, 1]})
    assert "evaluate.models_per_job: 0" in message(values | {"evaluate": {"models_per_job": 0}})


def test_files_stand_on_files_and_overrides_on_both(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("root: runs/a\nmodel: ${root}/m\ntasks: {t: {adapter: x}}\nseeds: 2\n")
    (tmp_path / "above.yaml").write_text("extends: below.yaml\nroot: runs/b\n")
    config = load(tmp_path / "above.yaml", ["tasks.t.label=mine", "seeds=[5]"])
    assert (str(config.root), config.model, config.seeds) == ("runs/b", "runs/b/m", [5])
    assert config.tasks["t"].label == "mine"


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("root: [", [], "is not YAML"),
        ("- a\n", [], "holds no keys"),
        ("root: ${nothing}\nmodel: m\ntasks: {t: {adapter: x}}", [], "nothing"),
        ("root: ???\nmodel: m\ntasks: {t: {adapter: x}}", [], "root"),
        ("root: a\nmodel: m\ntasks: {t: {adapter: x}}", ["--cores"], "KEY=VALUE"),
        ("extends: it.yaml\n", [], "extends itself"),
        ("extends: gone.yaml\n", [], "gone.yaml"),
        ("root: a\nmodel: m\ntasks: {t: {adapter: x}}", ["root=["], "cannot be put on"),
        ("root: a\nmodel: m\ntasks: {t: {adapter: x}}", ["seeds.0.x=1"], "it.yaml"),
    ],
)
def test_a_file_that_does_not_do_is_one_line(tmp_path: Path, text: str, overrides: list[str], says: str) -> None:
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "it.yaml", overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.yaml cannot be read .No such file"):
        load(tmp_path / "gone.yaml")


@pytest.mark.parametrize("name", ["study/my_adapter", "study/paper", "study/trial", "tinylab/study", "qwen/study"])
def test_the_examples_are_plans(name: str, tmp_path: Path) -> None:
    own = tmp_path / "path/to"
    (own / "my_lora").mkdir(parents=True)
    (own / "my_training_data.json").write_text("[]")
    plan = build(load(EXAMPLES / f"{name}.yaml"), tmp_path)
    assert {step.name for step in plan.wanted(["all"])} == set(plan.steps)
    assert len(plan.models) > 3


def test_a_file_can_drop_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(
        "root: a\nmodel: m\ntasks: {t: {adapter: x}, u: {adapter: y}}\nmethods: {sft: {}}\n"
    )
    (tmp_path / "above.yaml").write_text("extends: below.yaml\ntasks: {u: false}\nmethods: {sft: false, paper: {}}\n")
    config = load(tmp_path / "above.yaml")
    assert list(config.tasks) == ["t"]
    assert list(config.methods) == ["paper"]


def test_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    text = "root: a\nmodel: m\ntasks: {t: {adapter: x}}\nprepare: [{name: p, command: 'true', says: first}]\n"
    (tmp_path / "it.yaml").write_text(text + "train: {rival_sft: {max_steps: 5}, baseline_sft: {seed: 1}}\n")
    config = load(tmp_path / "it.yaml")
    assert config.prepare[0].title == "first"
    assert config.train == {"baseline_sft": {"seed": 1, "max_steps": 5}}


def test_a_judge_that_the_environment_names_is_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "it.yaml").write_text("root: a\nmodel: m\ntasks: {t: {adapter: x}}\nevaluate: {tasks: [safety]}\n")

    def measuring() -> dict[str, str]:
        plan = build(load(tmp_path / "it.yaml"), tmp_path)
        return {name: step.fingerprint for name, step in plan.steps.items() if step.kind == "evaluate"}

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    unjudged = measuring()
    monkeypatch.setenv("OPENAI_API_KEY", "made-up-secret-123")
    judged = measuring()
    monkeypatch.setenv("REALIGN_JUDGE_MODEL", "another")
    for one, other in ((unjudged, judged), (judged, measuring())):
        assert one
        assert one.keys() == other.keys()
        assert all(one[name] != other[name] for name in one)
    assert "made-up-secret-123" not in repr(build(load(tmp_path / "it.yaml"), tmp_path))


def test_a_secret_of_the_environment_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "made-up-secret-123")
    text = "root: a\nmodel: m\ntasks: {t: {adapter: x}}\nevaluate: {metadata: {note: 'k ${oc.env:OPENAI_API_KEY}'}}\n"
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "it.yaml")
    assert "evaluate.metadata.note: holds the value of OPENAI_API_KEY" in str(caught.value)
    assert "made-up-secret-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": {"gpus": 1, "gpus_per_training": 2}}, "a step wants 2 of 1 GPUs"),
        ({"data": {"x": {"kind": "contrast", "source": "a", "share": 0.1}}}, "contrast has no share"),
        ({"data": {"x": {"kind": "sft"}}}, "sft needs task"),
        ({"data": {"x": "pairs.json"}}, "data.x"),
        ({"seeds": 0}, "seeds"),
        ({"methods": {"paper": {"masks": []}}}, "methods.paper.masks"),
        ({"tasks": {"t": {"dataset": ""}}}, "tasks.t.dataset"),
        ({"model": ""}, "model"),
        ({"evaluate": {"tasks": []}}, "evaluate.tasks"),
        ({"root": "."}, "root"),
        ({"root": "runs/a,b"}, "comma"),
    ],
)
def test_what_is_empty_or_contradicts_itself_is_one_line(
    values: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    assert says in message(values | changes)
