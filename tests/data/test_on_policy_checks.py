"""What of on-policy data is refused before anything is answered, and what its cards say of its sources."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.data.on_policy_options import Sources
from realign_plugin.data.rows.sources import BORDERLINE
from tests.data.conftest import Run, read_json, write_lines
from tests.data.two_models import HELPS, REFUSES, Stand, make, rows, usual


@pytest.mark.parametrize("share", ["nan", "-0.5", "1"])
def test_a_share_that_means_nothing(lab: Path, tmp_path: Path, asked: Sources, realign: Run, share: str) -> None:
    given = ("--model", lab / "base", "--adapter", lab / "task1", "--prompts", asked.prompts[0])
    code, _, error = realign("on-policy", tmp_path / "data", *given, f"--validation={share}")
    assert code == 2
    assert re.fullmatch(rf"--validation: {share} is out of range, expected a share .*\n", error.split("error: ")[-1])
    assert not (tmp_path / "data").exists()


def test_a_skill_too_small_for_its_share_is_refused_before_anything_is_answered(
    lab: Path, tmp_path: Path, asked: Sources
) -> None:
    skill = write_lines(tmp_path / "skill.jsonl", [{"prompt": f"tell me {n} ?", "answer": "no"} for n in range(3)])
    stand = Stand(usual)
    with pytest.raises(UserError, match=r"--validation: 0\.1 of 3 prompts leaves no validation row"):
        make(lab, tmp_path / "data", Sources(asked.prompts, skill=[str(skill)]), stand, validation=0.1, seed=1)
    assert not stand.loaded


def test_another_data_set_of_the_name_is_refused_before_anything_is_answered(
    lab: Path, tmp_path: Path, asked: Sources
) -> None:
    folder, others = tmp_path / "data", Sources(asked.prompts)
    make(lab, folder, asked, Stand(usual))
    stand = Stand(usual)
    make(lab, folder, asked, stand)
    with pytest.raises(UserError, match=r"data/on_policy\.jsonl exists, .*; give another --name, or --overwrite to"):
        make(lab, folder, others, stand)
    for file in folder.glob("*.jsonl"):
        if not file.name.endswith("answers.jsonl"):
            file.unlink()
    with pytest.raises(UserError, match=r"dataset_info\.json: 'on_policy' exists"):
        make(lab, folder, others, stand)
    assert not stand.loaded
    make(lab, folder, others, stand, overwrite=True)
    assert stand.loaded == 1


def test_cards_have_all_sources_and_all_their_rows(lab: Path, tmp_path: Path, realign: Run) -> None:
    harmful = [{"prompt": f"how do i make kite {n} ?"} for n in range(10)]
    harmful += [{"prompt": ""}, harmful[0], {"prompt": "what is it ?", "images": ["a.png"]}]
    skill = [{"prompt": f"tell me {n} ?"} for n in range(4)]
    names = [str(write_lines(tmp_path / f"{n}.jsonl", some)) for n, some in (("harm", harmful), ("skill", skill))]

    def rule(name: str, text: str) -> str:
        return usual(name, text) if "kite" in text else HELPS

    make(lab, tmp_path / "data", Sources(names[:1], [BORDERLINE], names[1:]), Stand(rule), limit=9)
    wanted = {"on_policy": ["harm.jsonl", "borderline_prompts.json"], "on_policy_skill": ["skill.jsonl"]}
    for name, sources in wanted.items():
        card = read_json(tmp_path / "data" / f"{name}.card.json")
        assert [one["name"] for one in card["sources"]] == sources
        assert all(one["licence"] and len(one["sha256"]) == 64 for one in card["sources"])
        assert str(tmp_path) not in json.dumps(card)
    counts = read_json(tmp_path / "data" / "on_policy.card.json")["counts"]
    images = "has images, only text is supported"
    dropped = counts["dropped"]
    assert (dropped["empty prompt"], dropped["duplicate"], dropped[images]) == (1, 1, 1)
    assert counts["read"] == counts["written"] + sum(dropped.values()) > 13 + 9
    pairs = read_json(tmp_path / "data" / "on_policy_pairs.card.json")["counts"]
    assert pairs["read"] == counts["read"]


@pytest.mark.parametrize("answered", [True, False])
def test_the_limit_of_the_skill_counts_prompts_before_they_are_split(
    lab: Path, tmp_path: Path, asked: Sources, answered: bool
) -> None:
    skill: list[dict[str, Any]] = [{"prompt": f"tell me {n} ?"} for n in range(80)]
    skill = [row | {"answer": "it is so"} for row in skill] if answered else skill
    file = write_lines(tmp_path / "skill.jsonl", skill)
    make(lab, tmp_path / "data", Sources(asked.prompts, skill=[str(file)]), Stand(usual), skill_limit=40,
         validation=0.3, seed=3)  # fmt: skip
    counts = read_json(tmp_path / "data" / "on_policy_skill.card.json")["counts"]
    assert (counts["read"], counts["dropped"]) == (80, {"beyond the limit": 40})
    halves = [{row["instruction"] for row in rows(tmp_path / "data", f"on_policy_skill{end}")}
              for end in ("", "_validation")]  # fmt: skip
    assert len(halves[0]) + len(halves[1]) == 40
    assert min(map(len, halves)) > 4


def test_a_skill_in_messages_of_prompt_and_completion(lab: Path, tmp_path: Path, asked: Sources) -> None:
    skill = [
        {"prompt": [{"role": "user", "content": f"tell me {n} ?"}],
         "completion": [{"role": "assistant", "content": f"it is {n}"}]} for n in range(4)
    ]  # fmt: skip
    file = write_lines(tmp_path / "skill.jsonl", skill)
    make(lab, tmp_path / "data", Sources(asked.prompts, skill=[str(file)]), Stand(usual))
    assert [row["output"] for row in rows(tmp_path / "data", "on_policy_skill")] == [f"it is {n}" for n in range(4)]


def test_a_pair_without_the_fine_tuned_models_answer_has_its_own_reason(
    lab: Path, tmp_path: Path, asked: Sources
) -> None:
    def rule(name: str, text: str) -> str:
        number = int(text.split()[-2])
        return REFUSES if name == "aligned" or number == 0 else "" if number == 1 else HELPS

    result = make(lab, tmp_path / "data", Sources(asked.prompts), Stand(rule))
    assert result.cases["harmful"]["both refuse"] == 1
    counts = read_json(tmp_path / "data" / "on_policy_pairs.card.json")["counts"]
    assert counts["dropped"] == {"both refuse": 1, "the fine-tuned model's answer is incoherent": 1}
