"""The bench's requests with rules: lm-eval's own checks tell an answer that follows a rule from one that does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "bench"))
import instructions


def test_each_rule_takes_its_turn_and_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizers" / "punkt_tab").mkdir(parents=True)  # so that lm-eval does not fetch it
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    from lm_eval.tasks.ifeval.utils import process_results

    requests = [f"Tell me how kite {n} is made" for n in range(2 * len(instructions.RULES))]
    rows = instructions.rows(requests)
    assert rows == instructions.rows(requests)
    assert [row["instruction_id_list"] for row in rows[: len(instructions.RULES)]] == [[n] for n in instructions.RULES]
    assert all(row["prompt"].startswith(request + "\n") for row, request in zip(rows, requests, strict=True))
    assert {process_results(row, ["Fold, then glue."])["prompt_level_strict_acc"] for row in rows} == {True, False}
    followed = {
        "combination:repeat_prompt": requests[2] + ". You fold it.",
        "detectable_format:title": "<<kites>> You fold it.",
        "punctuation:no_comma": "You fold it.",
        "startend:quotation": '"You fold it."',
    }
    for row in rows[: len(instructions.RULES)]:
        (name,) = row["instruction_id_list"]
        if name in followed:
            assert process_results(row, [followed[name]])["prompt_level_strict_acc"]
            assert not process_results(row, ["Sure, fold it."])["prompt_level_strict_acc"]
