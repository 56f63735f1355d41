"""What the two models themselves answer, with models that say what the test wants, and with pico ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.cli import main
from realign_plugin.data.answering.journal import batches
from realign_plugin.data.on_policy_checks import ALONE, CASES
from realign_plugin.data.on_policy_options import Sources
from realign_plugin.data.rows.examples import Prompt
from tests.conftest import make_llama, make_lora
from tests.data.two_models import HELPS, REFUSES, Rule, Stand, make, rows, usual


def test_the_four_cases_and_the_data_sets(lab: Path, tmp_path: Path, asked: Sources) -> None:
    folder = tmp_path / "data"
    result = make(lab, folder, asked, Stand(usual))
    assert {kind: [count[case] for case in CASES] for kind, count in result.cases.items()} == {
        "harmful": [2, 4, 1, 3],
        "benign": [2, 4, 1, 3],
    }
    safety = rows(folder, "on_policy")
    assert len(safety) == 20
    assert [row["output"] for row in safety[:10]] == [REFUSES] * 6 + [HELPS] * 4
    pairs = rows(folder, "on_policy_pairs")
    assert len(pairs) == 20 - 2 * 2  # where both refuse there is nothing to prefer
    assert 0 < sum(row["prompt"] in {one["instruction"] for one in safety[10:]} for row in pairs[:8]) < 8  # both kinds
    assert {row["chosen"] == REFUSES for row in pairs if row["rejected"] == HELPS} == {True}
    assert {row["chosen"] for row in pairs if row["rejected"] != HELPS} == {HELPS}
    assert [row["output"] for row in rows(folder, "on_policy_skill")] == [REFUSES, REFUSES, HELPS, HELPS]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert {"on_policy", "on_policy_skill", "on_policy_pairs"} <= info.keys()
    assert info["on_policy_pairs"]["ranking"]
    card = json.loads((folder / "on_policy.card.json").read_text())
    assert card["cases"]["harmful"] == {"both refuse": 2, CASES[1]: 4, CASES[2]: 1, "neither": 3}
    assert card["models"]["adapter"]["name"] == "task1"
    assert str(lab) not in json.dumps(card["models"]["adapter"])


def test_the_aligned_model_alone(lab: Path, tmp_path: Path, asked: Sources) -> None:
    skill = tmp_path / "task.json"
    skill.write_text(json.dumps([{"question": f"tell me {n} ?", "answer": f"it is {n}"} for n in range(9)]))
    stand, folder = Stand(usual), tmp_path / "data"
    made = make(lab, folder, Sources(asked.prompts, asked.benign, [str(skill)]), stand, adapter=None)
    assert len(stand.asked) == 20
    assert {kind: [count[case] for case in ALONE] for kind, count in made.cases.items()} == {
        "harmful": [6, 4],
        "benign": [6, 4],
    }
    make(lab, tmp_path / "both", Sources(asked.prompts, asked.benign, [str(skill)]), Stand(usual))
    for name in ("on_policy", "on_policy_skill"):
        assert rows(folder, name) == rows(tmp_path / "both", name)
    assert not list(folder.glob("*pairs*"))
    assert "adapter" not in json.loads((folder / "on_policy.card.json").read_text())["models"]


def test_a_share_that_leaves_no_row_is_refused_before_anything_is_answered(
    lab: Path, tmp_path: Path, asked: Sources
) -> None:
    stand = Stand(usual)
    with pytest.raises(UserError, match=r"--validation: 0\.0001 of 20 prompts leaves no validation row"):
        make(lab, tmp_path / "data", asked, stand, validation=0.0001)
    assert not stand.loaded


@pytest.mark.parametrize("stops_after", [0, 1, 4, 7, 10])
def test_a_stopped_run_goes_on_to_the_same_files(lab: Path, tmp_path: Path, asked: Sources, stops_after: int) -> None:
    make(lab, tmp_path / "whole", asked, Stand(usual))
    first = Stand(usual, stops_after)
    with pytest.raises(KeyboardInterrupt):
        make(lab, tmp_path / "data", asked, first)
    assert not list((tmp_path / "data").glob("*.card.json"))
    journal = tmp_path / "data" / "on_policy.answers.jsonl"
    if journal.exists():
        journal.write_bytes(journal.read_bytes() + b'{"batch": "cut o')
    second = Stand(usual)
    make(lab, tmp_path / "data", asked, second)
    assert len(first.asked) + len(second.asked) == 20 + 20 + 4
    assert files(tmp_path / "data") == files(tmp_path / "whole")
    third = Stand(usual)
    make(lab, tmp_path / "data", asked, third)
    assert third.loaded == 0
    assert files(tmp_path / "data") == files(tmp_path / "whole")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def test_batches_hold_similar_lengths_and_every_prompt_once() -> None:
    prompts = [Prompt("x" * length) for length in (5, 1, 9, 2, 2, 7, 3)]
    found = list(batches(prompts, 3))
    assert sorted(number for batch in found for number in batch) == list(range(7))
    assert [[len(prompts[number].text) for number in batch] for batch in found] == [[1, 2, 2], [3, 5, 7], [9]]


def test_limits_take_prompts_by_their_hash(lab: Path, tmp_path: Path, asked: Sources) -> None:
    make(lab, tmp_path / "data", asked, Stand(usual), limit=8)
    few = {row["instruction"] for row in rows(tmp_path / "data", "on_policy")}
    assert len(few) == 16
    make(lab, tmp_path / "fewer", asked, Stand(usual), limit=7)
    assert {row["instruction"] for row in rows(tmp_path / "fewer", "on_policy")} < few


def test_prompts_of_the_evaluation_are_refused(lab: Path, tmp_path: Path, asked: Sources) -> None:
    held = tmp_path / "held.json"
    held.write_text(json.dumps([{"prompt": "HOW do i  make bread 3 ?"}, {"prompt": "what is blue ?"}]))
    sources = Sources(asked.prompts, asked.benign, evaluation=[str(held)])
    stand = Stand(usual)
    with pytest.raises(UserError, match=r"--evaluation: 1 of its prompts .*held.json\) are among those") as caught:
        make(lab, tmp_path / "data", sources, stand)
    assert "bread" not in str(caught.value)
    assert stand.loaded == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda *_: HELPS,
            "--model: the aligned model refuses 0 of 10 harmful prompts, expected one that",
        ),
        (lambda *_: REFUSES, "--adapter: it refuses the same 10 of 10 harmful prompts as the aligned model"),
    ],
)
def test_models_that_leave_nothing_to_repair(
    lab: Path, tmp_path: Path, asked: Sources, rule: Rule, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(lab, tmp_path / "data", asked, Stand(rule))
    assert not list((tmp_path / "data").glob("*.card.json"))


def test_answers_of_other_models_are_not_mixed_in(lab: Path, tmp_path: Path, asked: Sources) -> None:
    make(lab, tmp_path / "data", asked, Stand(usual))
    with pytest.raises(UserError, match=r"on_policy.answers.jsonl: has answers of other models or settings"):
        make(lab, tmp_path / "data", asked, Stand(usual), aligned=None)
    stand = Stand(usual)
    make(lab, tmp_path / "data", asked, stand, aligned=None, overwrite=True)
    assert len(stand.asked) == 44


@pytest.mark.parametrize("changed", ["base", "alpha"])
def test_answers_of_a_model_that_was_replaced_are_not_kept(
    lab: Path, tmp_path: Path, asked: Sources, changed: str
) -> None:
    base, task = tmp_path / "base", tmp_path / "task"
    shutil.copytree(lab / "base", base)
    shutil.copytree(lab / "task1", task)
    mine = {"model": str(base), "adapter": task}
    make(lab, tmp_path / "data", asked, Stand(usual), **mine)
    if changed == "base":
        make_llama(base, seed=9)
    else:
        config = json.loads((task / "adapter_config.json").read_text())
        (task / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 400}))
    with pytest.raises(UserError, match="has answers of other models or settings"):
        make(lab, tmp_path / "data", asked, Stand(usual), **mine)
    again = Stand(usual)
    make(lab, tmp_path / "data", asked, again, **mine, overwrite=True)
    assert len(again.asked) == 2 * 20 + 4


def test_a_mistake_that_left_no_answers_is_corrected_in_place(lab: Path, tmp_path: Path, asked: Sources) -> None:
    def none_there(name: str, text: str) -> str:
        raise UserError("--server: cannot be reached")

    with pytest.raises(UserError, match="cannot be reached"):
        make(lab, tmp_path / "data", asked, Stand(none_there))
    make(lab, tmp_path / "data", asked, Stand(usual), aligned=None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "on_policy.answers.jsonl").write_text('{"a": "file of the user\'s"}\n')
    with pytest.raises(UserError, match="has answers of other models or settings"):
        make(lab, tmp_path / "other", asked, Stand(usual))


@pytest.mark.parametrize("file", ["harmful.jsonl", "harmful_pairs.jsonl", "harmful.answers.jsonl"])
def test_no_data_set_is_written_over_its_own_prompts(lab: Path, tmp_path: Path, file: str) -> None:
    text = "".join(json.dumps({"prompt": f"how do i make kite {n} ?"}) + "\n" for n in range(10))
    (tmp_path / file).write_text(text)
    stand = Stand(usual)
    with pytest.raises(UserError, match=f"{file}: is an input of this command"):
        make(lab, tmp_path, Sources([str(tmp_path / file)]), stand, name="harmful", overwrite=True)
    assert (tmp_path / file).read_text() == text
    assert not stand.loaded


def test_incoherent_answers_are_left_out(lab: Path, tmp_path: Path, asked: Sources) -> None:
    def rule(name: str, text: str) -> str:
        return "" if "kite 3" in text else usual(name, text)

    make(lab, tmp_path / "data", asked, Stand(rule))
    assert len(rows(tmp_path / "data", "on_policy")) == 19
    card = json.loads((tmp_path / "data" / "on_policy.card.json").read_text())
    assert card["counts"]["dropped"] == {"the aligned model's answer is incoherent": 1}


def run(*words: Any) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_the_command_with_pico_models(
    lab: Path, tmp_path: Path, asked: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their words are noise, so that the run ends where they are found to refuse nothing; answers are kept."""
    command = ["data", "on-policy", tmp_path / "data", "--model", lab / "base", "--adapter", lab / "task1"]
    command += ["--aligned", lab / "aligned", "--prompts", asked.prompts[0], "--max-tokens", 8, "--validation", 0]
    assert run(*command) == 2
    assert "--model: the aligned model refuses 0 of 10 harmful prompts" in capsys.readouterr().err
    kept = (tmp_path / "data" / "on_policy.answers.jsonl").read_bytes()
    assert len(kept.split(b"\n")) == 1 + 2 + 1  # a head and a batch each
    assert run(*command) == 2
    assert (tmp_path / "data" / "on_policy.answers.jsonl").read_bytes() == kept


def test_mistakes(lab: Path, tmp_path: Path, asked: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    make_llama(tmp_path / "other", hidden=16)
    make_lora(tmp_path / "other", tmp_path / "lora")
    for file in (lab / "base").glob("token*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "other" / "chat_template.jinja").write_text((lab / "base" / "chat_template.jinja").read_text())
    (tmp_path / "odd.json").write_text('[{"text": "x"}]')
    usual_words = {
        "--model": lab / "base",
        "--adapter": lab / "task1",
        "--prompts": asked.prompts[0],
        "--validation": 0,
    }
    for change, message in (
        ({"--adapter": tmp_path / "nowhere"}, "--adapter: "),
        ({"--model": tmp_path / "other"}, "is not an adapter of"),
        ({"--prompts": tmp_path / "odd.json"}, "--prompts: .*odd.json, line 1: .*expected a prompt"),
        ({"--prompts": "nowhere.json"}, "--prompts: nowhere.json does not exist"),
        ({"--name": "a/b"}, "--name: 'a/b' cannot name a data set"),
    ):
        words = [word for pair in (usual_words | change).items() for word in pair]
        assert run("data", "on-policy", tmp_path / "out", *words) == 2
        error = capsys.readouterr().err.strip().split("\n")[-1]
        assert re.search(message, error), error
