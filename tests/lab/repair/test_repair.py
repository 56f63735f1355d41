"""A whole repair on pico models: real trainings by the stock command; the answers follow a rule."""

from __future__ import annotations

import html
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from realign_plugin import UserError
from realign_plugin.cli import main
from realign_plugin.data.answering import Answerer
from realign_plugin.data.examples import Prompt
from realign_plugin.lab.repair import command, plan, repair, running
from realign_plugin.lab.repair.plan import Budget
from realign_plugin.lab.study.launch import make_plan
from realign_plugin.subspace.lora_adapters import read_lora
from tests.conftest import make_llama, make_lora, make_tokenizer
from tests.stock import Forked

SMALL = Budget(16, 16, 16, 8, 8, 8, (1.0, 0.5), {"masks": 0.1, "lora": 2e-4})
REFUSES, HELPS = "Sorry, I can not help with that.", "Take paper and fold it twice, then glue the corners."


class Ruled(Answerer):
    """Pico models whose answers follow a rule: the aligned one refuses the kites, the fine-tuned one nothing."""

    stops_after = 10**6

    def __init__(self, base: str, adapters: Mapping[str, Path | None]) -> None:
        super().__init__(base, adapters)

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        if not Ruled.stops_after:
            raise KeyboardInterrupt
        Ruled.stops_after -= 1
        return [self.says(name, prompt.text) for prompt in prompts]

    def says(self, name: str, text: str) -> str:
        """What a model answers."""
        number = int(text.split()[-2])
        if "kite" not in text or name in ("fine-tuned", "fine_tuned"):
            return HELPS
        return HELPS if name.startswith("masks") and number % 4 == 0 else REFUSES


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, adapters far from each other, so that distillation has something to do, and prompts."""
    root = tmp_path_factory.mktemp("materials")
    make_llama(root / "base")
    make_tokenizer(root / "base")
    make_lora(root / "base", root / "aligned")
    make_lora(root / "base", root / "tuned", start=root / "aligned", seed=11, step=0.3)
    for name, word in (("harmful", "kite"), ("benign", "bread"), ("skill", "string")):
        rows = [{"prompt": f"how do i make {word} {number} ?"} for number in range(40)]
        if name == "skill":
            rows = [row | {"answer": "take paper and fold it ."} for row in rows]
        (root / f"{name}.json").write_text(json.dumps(rows))
    return root


def options_of(materials: Path, out: Path) -> dict[str, Any]:
    """Options of a small repair."""
    return {
        "base": str(materials / "base"), "adapter": materials / "tuned", "out": out,
        "aligned": materials / "aligned", "budget": "quick", "prompts": [str(materials / "harmful.json")],
        "benign": [str(materials / "benign.json")], "skill": [str(materials / "skill.json")],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.BUDGETS, "quick", SMALL)  # type: ignore[arg-type]
    monkeypatch.setattr(plan, "CPU_BATCH", 16)
    monkeypatch.setattr(Ruled, "stops_after", 10**6)


@pytest.fixture
def given(materials: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a repair into a new folder."""
    return options_of(materials, tmp_path / "out")


@pytest.fixture(scope="module")
def finished(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Options of a repair that has come to its end, and what it printed; not to be changed."""
    given = options_of(materials, tmp_path_factory.mktemp("finished") / "out")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setitem(plan.BUDGETS, "quick", SMALL)  # type: ignore[arg-type]
        patch.setattr(plan, "CPU_BATCH", 16)
        run(given)
    return given, said.getvalue()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that start quickly; those of ``finished`` start as a user's do."""

    def popen(command: list[str], stdout: Any, **_: Any) -> Forked:
        assert command[1:3] == ["-m", "llamafactory.cli"]
        return Forked(["llamafactory-cli", *command[3:]], dict(os.environ), stdout.name, stdout.name)

    stands_in = SimpleNamespace(Popen=popen, STDOUT=subprocess.STDOUT, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(running, "subprocess", stands_in)


def run(given: dict[str, Any], **changes: Any) -> None:
    """The command, with the ruled models."""
    before = repair.Repair.__init__.__kwdefaults__["answerer"]
    repair.Repair.__init__.__kwdefaults__["answerer"] = Ruled
    try:
        command.repair(command.Request(**(given | changes)))
    finally:
        repair.Repair.__init__.__kwdefaults__["answerer"] = before


def table(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((given["out"] / "before_after.json").read_text())
    return found


def test_prompts_in_an_adapter_out(finished: tuple[dict[str, Any], str]) -> None:
    given, said = finished
    found = table(given)
    rows = {row["model"]: row for row in found["rows"]}
    assert [row["refusal_rate"] for row in found["rows"]] == [1.0, 0.0, 1.0]
    assert rows["repaired"]["over_refusal"] == 0.0
    assert rows["repaired"]["agreement_harmful"] == 1.0
    assert 0 <= rows["repaired"]["skill_low"] <= rows["repaired"]["skill"] <= rows["repaired"]["skill_high"]
    assert rows["fine-tuned"]["skill_divergence"] == 0.0
    assert rows["aligned"]["skill_divergence"] > 0.0
    # The rule makes masks leave some kites unrefused, so LoRA has to be kept.
    assert found["kept"]["method"] == "lora"
    assert found["tried"]["masks-100"]["harmful"] > found["tried"]["lora-100"]["harmful"] == 0.0
    assert set(found["tried"]) == {"masks-100", "masks-50", "lora-100", "lora-50"}
    kept = read_lora(given["out"], "repaired")
    name = "lora" if found["kept"]["strength"] == 1.0 else "lora-50"
    trained = read_lora(given["out"] / "work" / "models" / name, "trained")
    assert all(kept.factors[m][f].equal(t) for m, pair in trained.factors.items() for f, t in pair.items())
    recipe = yaml.safe_load((given["out"] / "work" / "masks.yaml").read_text())
    assert recipe["stage"] == "safety_distill"
    assert found["verdict"]["sentence"] in html.unescape((given["out"] / "report.html").read_text())
    text = (given["out"] / "README.md").read_text()
    assert text.startswith('---\nbase_model: "base"\nlibrary_name: peft')
    assert found["verdict"]["sentence"] in text
    assert given["base"] not in text
    assert found["verdict"]["sentence"][:60] in " ".join(said.split())
    assert "To do: " in said


@pytest.mark.usefixtures("forked")
def test_without_a_skill(given: dict[str, Any]) -> None:
    run(given, skill=[])
    found = table(given)
    assert [row["refusal_rate"] for row in found["rows"]] == [1.0, 0.0, 1.0]
    assert not any("skill" in row for row in found["rows"])
    recipe = yaml.safe_load((given["out"] / "work" / "lora.yaml").read_text())
    assert recipe["dataset"] == "repair"
    assert recipe["distill_skill_weight"] == 0.0
    assert "skill" not in found["verdict"]["sentence"]


@pytest.mark.usefixtures("forked")
def test_killed_at_three_points_it_ends_with_the_same_table(
    finished: tuple[dict[str, Any], str], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Ruled.stops_after = 2  # in the middle of the on-policy answers
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert not (given["out"] / "work" / "data" / "done.json").exists()
    Ruled.stops_after = 10**6
    looked = running._step

    def at_a_checkpoint(folder: Path) -> int:
        if folder.name == "lora" and any(folder.glob("checkpoint-*/trainer_state.json")):
            raise KeyboardInterrupt
        return looked(folder)

    monkeypatch.setattr(running, "LOOK", 0.02)
    monkeypatch.setattr(running, "_step", at_a_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert (given["out"] / "work" / "done" / "masks.json").exists()
    assert not (given["out"] / "work" / "done" / "lora.json").exists()
    monkeypatch.setattr(running, "_step", looked)
    Ruled.stops_after = 12  # while it measures
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert not (given["out"] / "before_after.json").exists()
    Ruled.stops_after = 10**6
    run(given)
    assert table(given) == table(finished[0])


@pytest.mark.usefixtures("forked")
def test_a_training_that_was_begun_with_other_options_starts_again(given: dict[str, Any]) -> None:
    """An earlier version's defaults, for example: no training is half the one, half the other."""
    work = given["out"] / "work"
    folder = work / "models" / "lora"
    (folder / "checkpoint-1").mkdir(parents=True)
    (work / "lora.yaml").write_text("learning_rate: 9.0\n")
    run(given, method="lora")
    assert not (folder / "checkpoint-1").exists()  # a training of this budget saves after 2 steps
    assert yaml.safe_load((work / "lora.yaml").read_text())["learning_rate"] == SMALL.rates["lora"]


@pytest.mark.usefixtures("forked")
def test_a_second_run_does_nothing_again(given: dict[str, Any]) -> None:
    run(given, method="lora")
    files = {path: path.stat().st_mtime_ns for path in (given["out"] / "work" / "models").rglob("*.safetensors")}
    Ruled.stops_after = 0
    run(given, method="lora")
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_other_inputs_need_another_folder(given: dict[str, Any]) -> None:
    Ruled.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(given)
    with pytest.raises(UserError, match=r"--out: .* holds a repair with other inputs \(seed\)"):
        run(given, seed=1)


def test_two_repairs_do_not_share_a_folder(given: dict[str, Any]) -> None:
    with running.only_one(given["out"] / "work"), pytest.raises(UserError, match="another process works in"):
        run(given)


def never(self: Ruled, name: str, text: str) -> str:
    return HELPS


def always(self: Ruled, name: str, text: str) -> str:
    return REFUSES if "kite" in text else HELPS


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (never, "BASE: the aligned model refuses 0 of 16 harmful prompts"),
        (always, "ADAPTER: it refuses the same 16 of 16 harmful prompts"),
    ],
)
def test_nothing_to_repair(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, rule: Any, told: str) -> None:
    monkeypatch.setattr(Ruled, "says", rule)
    with pytest.raises(UserError) as caught:
        run(given)
    assert str(caught.value).startswith(told)


def wrong_base(given: dict[str, Any]) -> dict[str, Any]:
    make_llama(given["out"].with_name("other"), hidden=64)
    return {"base": str(given["out"].with_name("other"))}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (wrong_base, "ADAPTER: "),
        (lambda given: {"budget": "huge"}, "--budget: 'huge'"),
        (lambda given: {"method": "sft"}, "--method: 'sft'"),
        (lambda given: {"template": "qwenn"}, "template: 'qwenn'"),
        (lambda given: {"test": given["prompts"]}, "--test: 40 of its 40 prompts"),
        (lambda given: {"out": given["adapter"]}, "is an input"),
        (lambda given: {"adapter": given["adapter"] / "missing"}, "ADAPTER: "),
        (lambda given: {"prompts": ["nowhere.json"]}, "--prompts: nowhere.json does not exist"),
        (lambda given: {"skill": ["gsm8kk"]}, "--skill: 'gsm8kk' is unknown"),
        (lambda given: {"benign": ["nobody/nothing"]}, "--benign: nobody/nothing, split 'train', cannot be fetched"),
        (lambda given: {"base": "no/such-model"}, "BASE: no/such-model cannot be loaded"),
        (lambda given: {"base": given["out"].with_name("nothing")}, "BASE: "),
    ],
)
def test_bad_inputs_before_a_model_is_loaded(given: dict[str, Any], change: Any, told: str) -> None:
    Ruled.stops_after = 0
    with pytest.raises(UserError) as caught:
        run(given, **change(given))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (given["out"] / "work" / "data").exists()


def test_a_judge_that_is_not_there(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    Ruled.stops_after = 0
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        run(given, judge="some-judge")


def test_a_repair_as_a_study(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Ruled.stops_after = 0
    file = given["out"].with_name("study.yaml")
    run(given, write_study=file, test=given["benign"], benign=["borderline"])
    assert not given["out"].exists()
    planned = make_plan(file, [])
    assert {"data-own", "tuned-distill-0", "tuned-distill_lora-0"} <= planned.steps.keys()
    assert planned.models["aligned"].peft == str(given["aligned"])


def test_the_command_line(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["repair", given["base"], str(given["adapter"]), "--budget", "huge"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: --budget: 'huge'")
