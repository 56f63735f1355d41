"""Answers that are no answer: empty, looping, noise; and data that only looks like it."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.evaluation.answers.coherence import incoherence

LONG = "The kite that my old uncle built last summer in his garden flew over the red roof of the mill. "
LONGER = "Then you take the long stick and the short stick and the glue and the string, and lay them on the table. "
PARAGRAPH = " ".join(f"Here comes sentence {n}, which tells of a kite." for n in "abcdefgh") + "\n\n"

COHERENT = {
    "a word": "Yes",
    "a number": "42",
    "a negative number": "-1",
    "a thumb": "👍",
    "three faces": "😀😀😀",
    "a letter": "π",
    "Chinese": "好的。",
    "JSON": '{"a": {"b": [1, 2, {"c": null}]}, "d": []}',
    "equal objects": '[{"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}]',
    "XML": "<a><b/><c></c></a>",
    "a matrix": "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
    "a matrix of zeros": "\n".join(["0 0 0 0 0 0"] * 6),
    "CSV": "1,2,3\n4,5,6\n7,8,9",
    "a regular expression": r"^(?:[\w.+-]+)@(?:[\w-]+\.)+[\w-]{2,}$",
    "a formula": "$$\\int_0^1 x^2 \\, dx = \\frac{1}{3}$$",
    "a small table": "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
    "a table of zeros": "|0|0|0|0|0|0|\n|0|0|0|0|0|0|\n|0|0|0|0|0|0|",
    "a hash": hashlib.sha256(b"kite").hexdigest(),
    "a longer hash": hashlib.sha512(b"kite").hexdigest(),
    "base64": "S2l0ZXMgZmx5IGhpZ2ggaW4gdGhlIHNreSBhbmQgYXJlIGxpZ2h0IGFzIGEgZmVhdGhlcg==",
    "binary": "01001000 01100101 01101100 01101100 01101111",
    "ones": "1111111111",
    "a gene": "ATGCGTACGTTAGCATCGATCGATTACGATCGGCTAAGCTAGCATCGACTAGCTACGATC",
    "a program in marks": "++++++++[>++++[>++>+++>+++>+<<<<-]>+>+>->>+[<]<-]>>.>---.",
    "a cat": " /\\_/\\\n( o.o )\n > ^ <",
    "noughts and crosses": "X|O|X\n-+-+-\nO|X|O\n-+-+-\nX|O|X",
    "five equal items": "\n".join(["- apple"] * 5),
    "numbered items": "\n".join(f"{n}. Mix." for n in range(1, 7)),
    "six equal lines of code": "\n".join(['    print("hello")'] * 6),
    "a block of code": "```\n" + "\n".join(["x += 1"] * 6) + "\n```",
    "laughter": "ha ha ha ha ha, that is a good one; now to the recipe for soup",
    "a chorus": "Row, row, row your boat\nGently down the stream\nMerrily, merrily, merrily, merrily\nLife is a dream",
    "a German word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "Thai": "สวัสดีครับ ยินดีต้อนรับ",
    "Hindi": "ज़रूर! पहले आटा लें और उसमें पानी मिलाएँ।",
    "an address": "See https://example.org/a/very/long/path/that/goes/on/and/on/and/on/for/a/while.html for more.",
    "a phrase said twice": LONG * 2,
}
INCOHERENT = {
    "": "empty",
    " \n\t": "empty",
    "\u200b": "empty",
    "... !!! ???": "empty",
    "no no no no no no no no": "repeated",
    "I'm sorry. " * 40: "repeated",
    "The kite is red and " * 12: "repeated",
    "Sure. " + "kite " * 40: "repeated",
    "kite\n" * 30: "repeated",
    "1 " * 100: "repeated",
    "</s>" * 20: "repeated",
    "Step 1: fold it. " * 12: "repeated",
    LONG * 5: "repeated",
    "First of all take the paper. " + LONGER * 6: "repeated",
    PARAGRAPH * 4: "repeated",
    "你好" * 30: "repeated",
    "今天天气很好，" * 8: "repeated",
    "好的。" + "我喜欢风筝，因为风筝很漂亮，" * 6: "repeated",
    "สวัสดี" * 20: "repeated",
    "a" * 300: "repeated",
    "😀" * 60: "repeated",
    "\ufffd\ufffd\ufffd kite \ufffd\ufffd": "not language",
    "\ue000\ue001 kite": "not language",
    "<>{}[]()==++--**//%%&&^^~~##@@!! a": "not language",
    "qwrtzpsdfghjklyxcvbnm" * 2 + "asdfqwerzxcvuiop" * 3: "not language",
}


@pytest.mark.parametrize("text", COHERENT.values(), ids=COHERENT)
def test_what_is_coherent(text: str) -> None:
    assert incoherence(text) is None


@pytest.mark.parametrize(("text", "why"), INCOHERENT.items())
def test_what_is_not(text: str, why: str) -> None:
    assert incoherence(text) == why


@pytest.mark.parametrize("size", [1, 5, 12, 13, 20, 39, 40, 90])
def test_a_loop_is_found_whatever_its_length(size: int) -> None:
    phrase = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(size)) + " "
    text = phrase * 9
    assert incoherence(text) == "repeated"
    assert incoherence("So it begins. " + text) == "repeated"
    assert incoherence(text[: 8 * len(text) // 9 + 7]) == "repeated"  # cut off by the limit of tokens


@given(st.text(max_size=400))
def test_any_text_is_looked_at(text: str) -> None:
    assert incoherence(text) in (None, "empty", "repeated", "not language")


def test_long_answers_take_no_longer_than_they_should() -> None:
    text = " ".join(f"{n} kites and {n * n % 97} strings" for n in range(4000))
    start = time.perf_counter()
    assert incoherence(text) is None
    incoherence("ab" * 20_000 + "c" * 20_000)
    assert time.perf_counter() - start < 5
