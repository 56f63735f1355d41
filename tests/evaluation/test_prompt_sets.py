from __future__ import annotations

from pathlib import Path

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.prompt_sets import number_of_prompts, prompt_sets
from realign_plugin.evaluation.sources import FULL, SOURCES, SUBSET


def test_every_prompt_set_has_its_numbers() -> None:
    assert set(FULL) == set(SUBSET) == set(SOURCES)


def test_groups_are_their_tasks() -> None:
    assert [part.name for part in prompt_sets(["safety"])] == [
        f"safety_{name}" for name in ("catqa", "beavertails", "harmfulqa", "shadow", "dangerousqa")
    ]
    assert {part.kind for part in prompt_sets(["over_refusal"])} == {"benign"}
    assert sum(number_of_prompts(part, None)[0] for part in prompt_sets(["safety_catqa_topics"])) == 11 * 50
    assert prompt_sets(["realign_downstream", "gsm8k"]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"task: [", "x.yaml is not YAML"),
        (b"task: \x80", "x.yaml is not UTF-8 text"),
        (b"- " * 2000, "x.yaml is not YAML"),
        (b"group: a\ntask: [a]", "the group 'a' is in itself"),
    ],
)
def test_task_files_of_one_s_own_that_are_none(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(UserError, match=f"^include_path: .*{message}"):
        prompt_sets(["a"], tmp_path)
