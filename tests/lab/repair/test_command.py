"""What a repair refuses, and what its command says."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.cli import main
from realign_plugin.lab.repair import running
from realign_plugin.lab.study.launch import make_plan
from tests.conftest import make_llama
from tests.lab.repair.ruled import HELPS, REFUSES, Ruled, run

pytestmark = pytest.mark.usefixtures("small_budget")


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
        (lambda given: {"base": "/no/such-model"}, "BASE: /no/such-model cannot be loaded (the folder does not exist"),
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
    with pytest.raises(KeyboardInterrupt):  # the same folder takes the corrected command
        run(given, judge=None)


def test_a_template_that_cannot_be_told_is_given_next_time(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(model: str) -> str:
        raise UserError(f"--template: none renders as {model} does")

    Ruled.stops_after = 0
    with monkeypatch.context() as patch:
        patch.setattr("realign_plugin.training.template_choice.template_of", unknown)
        with pytest.raises(UserError, match="--template: none renders"):
            run(given)
    with pytest.raises(KeyboardInterrupt):
        run(given, template="llama3")


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
