"""What a thinking model answered, by the tags and channels of several families."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.answers.thinking import final_answer, opened_by

ANSWER = "Fold the paper twice."


@pytest.mark.parametrize(
    "text",
    [
        f"<think>Kites, hm.</think>\n\n{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"Kites, hm.\n</think>\n\n{ANSWER}",
        f"<think>One <think>two</think> three</think>{ANSWER}",
        f"<think>One</think><think>two</think> {ANSWER}",
        f"<thinking>Kites</thinking>{ANSWER}",
        f"<seed:think>Kites</seed:think>{ANSWER}",
        f"[THINK]Kites[/THINK]{ANSWER}",
        f"◁think▷Kites◁/think▷{ANSWER}",
        f"<|begin_of_thought|>Kites<|end_of_thought|>{ANSWER}",
        f"<|channel|>analysis<|message|>Kites.<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        "<|channel|>analysis<|message|>Kites.<|end|><|start|>assistant<|channel|>commentary to=x<|message|>"
        f"{{}}<|call|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"analysisThe user wants kites.assistantfinal{ANSWER}",
        f"analysisKites.assistantcommentary to=x{{}}assistantfinal{ANSWER}",
    ],
)
def test_the_answer_follows_the_thinking(text: str) -> None:
    assert final_answer(text) == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "<think>Kites, hm",
        "<think>",
        "<think>One</think>Fold it. <think>Or rather",
        "Sure, <think>Kites",
        "<|channel|>analysis<|message|>The user wants kites",
        "<|channel|>analysis<|message|>Kites.<|end|><|start|>assistant<|channel|>commentary<|message|>Calling",
        "analysisThe user wants kites",
    ],
)
def test_thinking_without_an_end_is_no_answer(text: str) -> None:
    assert final_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"  {ANSWER}\n",
        "",
        "Analysis of kites: they fly.",
        "analysis: they fly",
        "I think </b> ends bold text.",
        "Models write `<think>` before they answer and `</think>` after it.",
        "Use <thinker> and <channel> as names.",
    ],
)
def test_an_answer_without_thinking_stays_as_it_is(text: str) -> None:
    assert final_answer(text) == text


def test_thinking_and_nothing_after_it() -> None:
    assert final_answer("<think>Kites.</think>\n") == ""


@given(st.text(st.sampled_from("ab`<>/ think[]|")) | st.lists(st.sampled_from(["<think>", "</think>", "a ", "`"])))
def test_no_thinking_is_left(text: str | list[str]) -> None:
    found = final_answer("".join(text))
    assert found is None or found == "".join(text) or final_answer(found) == found


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<user> kites <assistant><think>\n", "<think>"),
        ("<assistant><think>", "<think>"),
        ("[THINK] ", "[THINK]"),
        ("<think>\n\n</think>\n\n", ""),
        ("Write `<think>", ""),
        ("Say <think> twice", ""),
        ("", ""),
    ],
)
def test_prompts_that_open_the_thinking(prompt: str, tag: str) -> None:
    assert opened_by(prompt) == tag
    if tag:
        assert final_answer(f"{tag}Kites, hm") is None
        assert final_answer(f"{tag}Kites.{tag.replace('<', '</').replace('[', '[/')}Fold it.") == "Fold it."
