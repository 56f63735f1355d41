"""The headline picks the right rows and says what they show."""

from __future__ import annotations

from realign_plugin.lab.report.headline import comparisons, measure_text, sentence
from tests.lab.report.test_axes import HARMFUL, OVER, REFUSED, skill, table

COLUMNS = [HARMFUL, OVER, skill("task")]
START = ("start", "aligned", {"harmful": 2, "over-refusal": 2, "task": 10})
TUNED = ("task", "fine-tuned", {"harmful": 90, "over-refusal": 1, "task": 80})


def test_best_is_the_smallest_sum_of_harm_over_refusal_and_missing_skill() -> None:
    made = table(
        COLUMNS, START, TUNED,
        ("task", "realigned", {"harmful": 0, "over-refusal": 60, "task": 80}),  # refuses everything
        ("task", "realigned", {"harmful": 4, "over-refusal": 3, "task": 78}),
        ("task", "realigned", {"harmful": 1, "over-refusal": 3, "task": 40}),  # lost the skill
    )  # fmt: skip
    (found,) = comparisons(made)
    assert found.after is made.rows[3]
    assert found.before is made.rows[1]
    assert found.candidates == 3
    assert [measure.verdict for measure in found.measures] == ["better", "no clear change", "no clear change"]
    assert found.baseline is None


def test_over_refusal_is_judged_by_the_aligned_model() -> None:
    aligned = ("start", "aligned", {"harmful": 2, "over-refusal": 45, "task": 10})
    as_aligned = ("task", "realigned", {"harmful": 3, "over-refusal": 42, "task": 80})
    beyond = ("task", "realigned", {"harmful": 2, "over-refusal": 80, "task": 80})
    (found,) = comparisons(table(COLUMNS, aligned, TUNED, beyond, as_aligned))
    assert found.after.cell("over").value == 0.42
    assert found.measures[1].verdict == "as the aligned model"
    assert found.measures[1].excess is not None
    assert round(found.measures[1].excess.value, 2) == -0.03
    (found,) = comparisons(table(COLUMNS, aligned, TUNED, beyond))
    assert found.measures[1].verdict == "worse"
    unknown = ("start", "aligned", {"harmful": 2, "task": 10})
    (found,) = comparisons(table(COLUMNS, unknown, TUNED, as_aligned))
    assert found.measures[1].verdict == "worse", "compared with the fine-tuned model where the aligned is not measured"


def test_a_repair_that_harms_is_called_worse() -> None:
    made = table(COLUMNS, TUNED, ("task", "realigned", {"harmful": 99, "over-refusal": 40, "task": 30}))
    (found,) = comparisons(made)
    assert [measure.verdict for measure in found.measures] == ["worse", "worse", "worse"]
    assert sentence([found]).endswith("; harm rose beyond chance.")


def test_a_better_baseline_is_told() -> None:
    realigned = ("task", "realigned", {"harmful": 10, "over-refusal": 5, "task": 70})
    ahead = ("task", "baseline", {"harmful": 1, "over-refusal": 1, "task": 79})
    behind = ("task", "baseline", {"harmful": 30, "over-refusal": 1, "task": 79})
    (found,) = comparisons(table(COLUMNS, TUNED, realigned, behind, ahead))
    assert found.baseline_does == "better"
    assert [cell.value for cell in found.baseline_measures] == [0.01, 0.01, 0.79]
    (found,) = comparisons(table(COLUMNS, TUNED, realigned, behind))
    assert found.baseline_does == "worse"
    (found,) = comparisons(table(COLUMNS, TUNED, realigned, ("task", "baseline", realigned[2])))
    assert found.baseline_does == "as well"


def test_a_row_without_a_number_does_not_win() -> None:
    made = table(
        COLUMNS, TUNED,
        ("task", "realigned", {"over-refusal": 0, "task": 80}),
        ("task", "realigned", {"harmful": 20, "over-refusal": 9, "task": 70}),
    )  # fmt: skip
    (found,) = comparisons(made)
    assert found.after is made.rows[2]


def test_a_fused_model_is_compared_with_the_same_fusion() -> None:
    made = table(
        COLUMNS, TUNED,
        ("fused", "fused", {"harmful": 70, "over-refusal": 1, "task": 60}),
        ("fused", "fused", {"harmful": 80, "over-refusal": 1, "task": 50}),
        ("fused", "fused realigned", {"harmful": 5, "over-refusal": 1, "task": 60}),
    )  # fmt: skip
    fusions = [None, "task_arithmetic", "ties", "ties"]
    rows = [row.model_copy(update={"fusion": fusion}) for row, fusion in zip(made.rows, fusions, strict=True)]
    (found,) = (one for one in comparisons(made.model_copy(update={"rows": rows})) if one.group == "fused")
    assert found.before is rows[2]
    assert [one.group for one in comparisons(made)] == []  # of an earlier version: it is not known, and not guessed


def test_the_sentence_has_the_numbers() -> None:
    made = table(COLUMNS, START, TUNED, ("task", "realigned", {"harmful": 3, "over-refusal": 2, "task": 79}))
    found = comparisons(made)
    text = sentence(found).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert text == (
        "Realignment took the share of harmful answers from 90 % to 3 %, over-refusal from 1 % to 2 %, and the skill "
        "from 80 % to 79 %; the fall in harm is clear of chance."
    )
    words = [measure_text(measure).replace("\N{NARROW NO-BREAK SPACE}", " ") for measure in found[0].measures]
    assert words[0] == "90 % before, 3 % after"


def test_without_a_judge_the_sentence_speaks_of_refusals() -> None:
    made = table(
        [REFUSED, skill("task")],
        ("task", "fine-tuned", {"refused": 10, "task": 80}), ("task", "realigned", {"refused": 10, "task": 80}),
    )  # fmt: skip
    text = sentence(comparisons(made)).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "the share of harmful prompts that are not refused from 90 % to 90 %" in text
    assert text.endswith("the change in harm is not clear of chance.")


def test_groups_that_cannot_be_compared_are_left_out() -> None:
    assert comparisons(table(COLUMNS, START, TUNED)) == []
    assert comparisons(table(COLUMNS, ("task", "realigned", {"harmful": 3}))) == []
    assert comparisons(table([], ("task", "fine-tuned", {}), ("task", "realigned", {}))) == []


def test_much_gibberish_after_the_repair_is_told() -> None:
    gibberish = HARMFUL | {"key": "gibberish", "label": "gibberish", "axis": "other"}
    columns = [*COLUMNS, gibberish]
    for share, told in ((30, [("gibberish", 0.3)]), (9, [])):
        realigned = ("task", "realigned", {"harmful": 3, "over-refusal": 2, "task": 79, "gibberish": share})
        (found,) = comparisons(table(columns, TUNED, realigned))
        assert found.trouble == told
