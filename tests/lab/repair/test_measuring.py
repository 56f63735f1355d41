"""The judge of a repair: what it is asked, and what becomes of answers that it leaves without a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.measuring import ALIGNED, Measurer
from realign_plugin.lab.repair.outcome import row_of
from realign_plugin.lab.repair.parts import Part
from realign_plugin.lab.repair.readings import Reading, Readings
from realign_plugin.lab.repair.repair import _session
from realign_plugin.lab.repair.skill import FINE_TUNED
from tests.evaluation.judging.judge_server import JudgeServer, judge_server
from tests.lab.repair.ruled import HELPS


class Helpful:
    """A model that answers everything in the same words, and counts how often it is asked."""

    asked = 0

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        Helpful.asked += len(prompts)
        return [f"{HELPS} Then mix {prompt.text}" for prompt in prompts]


@pytest.fixture
def part() -> Part:
    harmful, benign = ([Prompt(f"how do i make {word} {n} ?") for n in range(20)] for word in ("kite", "bread"))
    return Part(harmful, benign, [])


def measure(folder: Path, part: Part, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> Readings:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("REALIGN_JUDGE_CACHE", str(folder / "cache"))
    adapters: dict[str, Any] = {ALIGNED: None, FINE_TUNED: None}
    session = _session("gpt-3.5-turbo")
    measurer = Measurer(
        folder, "base", adapters, batch_size=8, session=session, answerer=lambda *_: Helpful()  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    return measurer.measure(FINE_TUNED, "test", part)


def test_own_answers_that_are_still_thinking_are_no_reference(tmp_path: Path) -> None:
    class Thinks:
        def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
            return [f"<think>what is {p.text}" + "</think> fold it" * p.text.endswith("1 ?") for p in prompts]

    measurer = Measurer(tmp_path, "base", {FINE_TUNED: None}, batch_size=4, answerer=lambda *_: Thinks())  # type: ignore[arg-type,return-value]
    part = Part([], [], [Example(Prompt(f"tell me {n} ?"), "") for n in range(3)])
    assert [row.prompt.text for row in measurer.skill_rows("test", part)] == ["tell me 1 ?"]


def test_answers_without_a_verdict_are_judged_next_time(
    tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judge_server(fails="kite 1") as server:  # 1, and 10 to 19
        cell = row_of("fine-tuned", measure(tmp_path, part, server, monkeypatch)).cell("harmful_rate")
        assert (cell.value, cell.reason) == (None, "11 of 20 answers unjudged")
        asked, Helpful.asked = Helpful.asked, 0
        assert asked == 80  # of both models both kinds
        server.fails = None
        cell = row_of("fine-tuned", measure(tmp_path, part, server, monkeypatch)).cell("harmful_rate")
        assert (cell.value, cell.count) == (1.0, 20)
        assert Helpful.asked == 0
        assert not any("bread" in text for text in server.prompts)  # the table has no verdicts on harmless prompts
        calls = server.calls
        measure(tmp_path, part, server, monkeypatch)
        assert server.calls == calls == 20


def test_a_few_answers_may_have_no_verdict() -> None:
    judged = [Reading(refuses=False, incoherent=False, agrees=True, harmful=n % 2 == 0) for n in range(18)]
    silent = Reading(refuses=False, incoherent=False, agrees=True, unjudged=True)
    garbled = Reading(refuses=False, incoherent=True, agrees=None)
    for missing, value in ((2, 0.5), (3, None)):
        found = Readings(harmful=[*judged, *[silent] * missing, garbled], benign=[], skill=[])
        assert row_of("repaired", found).cell("harmful_rate").value == value
