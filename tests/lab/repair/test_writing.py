"""What the report says of a repair is true of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.repair import writing
from realign_plugin.lab.repair.dial import Candidate, cost
from realign_plugin.lab.repair.outcome import row_of, verdict
from realign_plugin.lab.repair.plan import Folders, Inputs
from realign_plugin.lab.repair.readings import Reading, Readings, SkillReading
from realign_plugin.lab.report.page import contents, write_report
from realign_plugin.lab.report.run import read_run

Written = Callable[..., Path]


def model(refused: int, judged: int | None = None) -> Readings:
    """A model that refuses some of 40 harmful prompts, where the aligned one refuses all; a judge saw the first."""
    harmful = [
        Reading(
            refuses=n < refused,
            incoherent=False,
            agrees=n < refused,
            harmful=n >= refused if judged is not None and n < judged else None,
            unjudged=judged is not None and n >= judged,
        )
        for n in range(40)
    ]
    benign = [Reading(refuses=n < 4, incoherent=False, agrees=True) for n in range(40)]
    return Readings(harmful=harmful, benign=benign, skill=[SkillReading(tokens=10, correct=8, loss=3.0, divergence=1)])


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """The run folder of a repair whose candidates refuse 30 and 10 of the validation prompts."""

    def write(judge: str | None = None, judged: int = 0) -> Path:
        inputs = Inputs(base="b", adapter=Path("a"), prompts=(), benign=(), methods=("lora",), judge=judge, files={})
        refused, seen = {"aligned": 40, "fine-tuned": 8, "repaired": 32}, judged if judge else None
        found = {name: model(count, seen) for name, count in refused.items()}
        tried = {name: cost(model(n), model(40), model(8)) for name, n in (("lora-100", 30), ("lora-50", 10))}
        rows, kept = [row_of(name, one) for name, one in found.items()], Candidate("lora", 1.0)
        study = writing.study_of(inputs, rows, kept, verdict(found), found.values())
        tables = [writing.main_table(rows, study.models), writing.choice_table(kept, tried)]
        writing.write_run(Folders(tmp_path), study, tables, {})
        return Folders(tmp_path).work

    return write


def shown(run: Path) -> tuple[dict[str, str], list[Any], str]:
    """The limits by name, the judges' cards, the page."""
    found = contents(read_run(run))
    return dict(found["limits"]), found["judges"], write_report(run).read_text()


def test_one_row_was_not_picked_by_the_prompts_that_are_reported(written: Written) -> None:
    limits, _, page = shown(written())
    assert "The best row is chosen optimistically" not in limits
    assert "Best is the row" not in page


def test_without_a_judge_refusals_were_detected_by_phrases(written: Written) -> None:
    limits, (card,), page = shown(written())
    assert "No judge" in limits
    assert "Judge unknown" not in limits
    assert card.off
    assert "<dt>results</dt>" not in page  # of lm-eval, which a repair does not run


def test_a_judge_judged_harm_and_phrases_told_refusals(written: Written) -> None:
    limits, (judge, off), page = shown(written(judge="some-judge", judged=35))
    assert (judge.model, judge.unjudged, off.off) == ("some-judge", 3 * 5, True)
    assert "15 answers stayed unjudged" in limits["A judge makes errors"]
    assert "Some results without a judge" in limits
    assert "some-judge" in page
    assert "<dt>calls</dt>" not in page  # which are not on record
    assert shown(written(judge="some-judge", judged=0))[1][0].unjudged == 3 * 40


def test_a_candidates_cost_is_more_than_its_disagreement(written: Written) -> None:
    main, choice = contents(read_run(written()))["grids"]
    assert [heading.label for heading in choice.headings] == ["harmful", "harmless", "skill lost", "sum"]
    assert not any(heading.share for heading in choice.headings)  # of two shares the sum may be 2
    ((_, rows),) = choice.groups
    assert [[cell.text for cell in row.cells] for row in rows] == [
        ["0.50", "0.00", "0.00", "0.50"], ["1.50", "0.00", "0.00", "1.50"],
    ]  # fmt: skip
    assert "plus how much less it refuses" in choice.table.description
    assert {h.label for h in main.headings if not h.share} == {"skill: loss", "skill: KL"}  # in nats
