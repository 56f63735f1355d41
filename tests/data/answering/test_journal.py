"""The journal of answers where its disk is full, or its last line was cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.data.answering.journal import Journal
from realign_plugin.data.rows.examples import Prompt

PROMPTS = [Prompt(f"how do i make kite {number} ?") for number in range(4)]
SETTINGS = {"batch_size": 2}


class Answers:
    """Answers in Chinese, and says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        self.asked += len(prompts)
        return ["\u62b1\u6b49"] * len(prompts)


def ask(file: Path, answers: Answers) -> list[str]:
    journal = Journal(file, {"model": "base"}, SETTINGS)
    with journal:
        return journal.answers([("aligned", PROMPTS, 8)], lambda: answers)[0]


def test_a_line_that_is_cut_within_a_character_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "x.answers.jsonl"
    ask(file, Answers())
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex("\u6b49".encode()) + 1])
    again = Answers()
    assert ask(file, again) == ["\u62b1\u6b49"] * 4
    assert again.asked == 2
    assert file.read_bytes() == whole


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("answered", [True, False])
def test_a_full_disk_is_one_line(tmp_path: Path, answered: bool) -> None:
    file = tmp_path / "x.answers.jsonl"
    journal = Journal(file, {"model": "base"}, SETTINGS)

    def load() -> Any:
        journal._stream = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115 (closed by the journal)
        return Answers()

    def write() -> None:
        with journal:
            if answered:
                journal.answers([("aligned", PROMPTS, 8)], load)
            else:
                load()
                assert journal._stream is not None
                journal._stream.write("x")

    with pytest.raises(UserError, match=r"x\.answers\.jsonl: cannot be written \(No space left on device\)"):
        write()
