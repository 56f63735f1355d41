"""Rows of the skill in on-policy data: with answers, without, and with some."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from realign_plugin import UserError
from realign_plugin.data.on_policy_options import Sources
from tests.data.two_models import HELPS, REFUSES, Stand, make, rows, usual


def test_skill_data_with_answers_is_taken_as_it_is(lab: Path, tmp_path: Path, asked: Sources) -> None:
    skill = tmp_path / "task.json"
    skill.write_text(json.dumps([{"question": f"tell me {n} ?", "answer": f"it is {n}"} for n in range(9)]))
    sources = Sources(asked.prompts, skill=[str(skill)])
    make(lab, tmp_path / "data", sources, Stand(usual), skill_limit=5)
    assert len(rows(tmp_path / "data", "on_policy_skill")) == 5
    assert all(row["output"].startswith("it is") for row in rows(tmp_path / "data", "on_policy_skill"))


def test_skill_data_of_several_sources(lab: Path, tmp_path: Path, asked: Sources) -> None:
    sums, names = tmp_path / "sums.json", tmp_path / "names.jsonl"
    sums.write_text(json.dumps([{"question": f"tell me {n} ?", "answer": f"it is {n}"} for n in range(4)]))
    names.write_text("".join(json.dumps({"instruction": f"name {n}", "output": f"it is {n}"}) + "\n" for n in "ab"))
    make(lab, tmp_path / "data", Sources(asked.prompts, skill=[str(sums), str(names)]), Stand(usual))
    assert sorted(row["output"] for row in rows(tmp_path / "data", "on_policy_skill")) == [
        *(f"it is {n}" for n in range(4)), "it is a", "it is b",
    ]  # fmt: skip
    table = pyarrow.table({"instruction": ["name c"], "output": ["it is c"], "made": [datetime(2026, 1, 1)]})
    pyarrow.parquet.write_table(table, tmp_path / "dated.parquet")
    make(
        lab,
        tmp_path / "dated",
        Sources(asked.prompts, skill=[str(sums), str(tmp_path / "dated.parquet")]),
        Stand(usual),
    )
    assert "it is c" in [row["output"] for row in rows(tmp_path / "dated", "on_policy_skill")]
    with pytest.raises(UserError, match=r"sums\.json has answers and .*skill\.json has none, expected .* one kind"):
        make(lab, tmp_path / "other", Sources(asked.prompts, skill=[asked.skill[0], str(sums)]), Stand(usual))


def test_the_aligned_model_alone_answers_no_prompt_of_the_skill(lab: Path, tmp_path: Path, asked: Sources) -> None:
    stand = Stand(usual)
    with pytest.raises(UserError, match=r"--skill: .*skill\.json has no answers, .* give --adapter"):
        make(lab, tmp_path / "data", asked, stand, adapter=None)
    assert not stand.loaded
    never = Stand(lambda name, text: HELPS)
    with pytest.raises(UserError, match="refuses 0 of 10 harmful prompts"):
        make(lab, tmp_path / "data", Sources(asked.prompts), never, adapter=None)


def test_empty_answers_to_prompts_of_the_skill_are_made(lab: Path, tmp_path: Path, asked: Sources) -> None:
    skill = tmp_path / "empty.json"
    skill.write_text(json.dumps([{"instruction": f"tell me {n} ?", "input": "", "output": ""} for n in range(4)]))
    make(lab, tmp_path / "data", Sources(asked.prompts, asked.benign, [str(skill)]), Stand(usual))
    assert sorted(row["output"] for row in rows(tmp_path / "data", "on_policy_skill")) == 2 * [REFUSES] + 2 * [HELPS]
