"""Which answer of a labelled row is taken."""

from __future__ import annotations

from typing import Any

import pytest

from realign_plugin.data.rows.columns import BadRowError, DroppedError, MissingColumnsError, Row
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.data.rows.safety_pairs import less_safe_answer, preference_pair, safe_answer


def row(first: Any, second: Any, **more: Any) -> Row:
    return Row(
        {
            "prompt": "kite?",
            "response_0": "zero",
            "response_1": "one",
            "is_response_0_safe": first,
            "is_response_1_safe": second,
        }
        | more
    )


P = Prompt("kite?")


@pytest.mark.parametrize(
    ("given", "pair", "safe", "less_safe"),
    [
        (row(True, False), Example(P, "zero", "one"), "zero", "one"),
        (row(False, True), Example(P, "one", "zero"), "one", "zero"),
        (row("False", " true"), Example(P, "one", "zero"), "one", "zero"),
        (row(0, "1"), Example(P, "one", "zero"), "one", "zero"),
        (row(True, True, better_response_id=1, safer_response_id=0), "both answers safe", "one", "both answers safe"),
        (row(True, True, safer_response_id="0"), "both answers safe", "zero", "both answers safe"),
        (row(True, True), "both answers safe", "both answers safe, no better", "both answers safe"),
        (row(False, False, safer_response_id=1), "both answers unsafe", "both answers unsafe", "zero"),
        (row(False, False, safer_response_id=None), "both answers unsafe", "both", "both answers unsafe, no safer"),
        (Row({"Prompt": "kite?", "response": ["one", "zero"]}), Example(P, "one", "zero"), "one", "zero"),
        (Row({"question": "kite?", "chosen": "one", "rejected": "zero"}), Example(P, "one", "zero"), "one", "zero"),
    ],
)
def test_what_is_taken(given: Row, pair: Example | str, safe: str, less_safe: str) -> None:
    for take, expected in ((preference_pair, pair), (safe_answer, safe), (less_safe_answer, less_safe)):
        if isinstance(expected, str) and expected.startswith("both"):
            with pytest.raises(DroppedError, match=expected):
                take(given)
        else:
            assert take(given) == (expected if isinstance(expected, Example) else Example(P, expected))


def test_input_and_history_go_along() -> None:
    given = {"instruction": "c", "input": "i", "history": [["a", "b"]], "chosen": "one", "rejected": "zero"}
    assert preference_pair(Row(given)).row() == {
        "prompt": "c\ni",
        "chosen": "one",
        "rejected": "zero",
        "history": [["a", "b"]],
    }


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        (row("perhaps", True), BadRowError, "is_response_0_safe is text, expected true or false"),
        (row(2, True), BadRowError, "is_response_0_safe is a number"),
        (row(True, None), BadRowError, "is_response_1_safe is null"),
        (row(True, False, response_1=7), BadRowError, "response_1 is a number, expected text"),
        (Row({"prompt": "k", "response": ["one"]}), BadRowError, "response is a list of 1, expected a list of two"),
        (Row({"prompt": "k", "response": "one"}), BadRowError, "response is text, expected a list of two answers"),
        (Row({"prompt": "k", "response": ["one", None]}), BadRowError, "response is null, expected text"),
        (Row({"prompt": "k", "chosen": "one", "rejected": []}), BadRowError, "rejected is a list"),
        (Row({"prompt": "k", "chosen": "one", "rejected": " "}), DroppedError, "empty answer"),
        (Row({"prompt": "k", "chosen": "one", "rejected": "one"}), DroppedError, "chosen equals rejected"),
        (Row({"chosen": "one", "rejected": "zero"}), MissingColumnsError, "prompt with chosen and rejected"),
        (Row({"prompt": "k", "chosen": "one"}), MissingColumnsError, "PKU-SafeRLHF's prompt, response_0"),
    ],
)
def test_what_is_not(given: Row, kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        preference_pair(given)
