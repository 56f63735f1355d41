"""Whether an answer is coherent at all: not empty, not a loop, not noise.

Data is coherent although it is not prose: JSON, a matrix, a regular expression, a hash, "👍".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

Incoherence = Literal["empty", "repeated", "not language", "unfinished thinking"]

LOOPING: Final = 0.5
"""Share of an answer that a loop makes up, at least."""
TIMES: Final = ((40, 3), (13, 4), (1, 5))
"""How often a phrase of so many words or more has to be said in a row."""
LINES: Final = 12
"""The same for short lines, lines of code and items of data, which repeat in good answers too."""
NUMBERS: Final = 60
"""The same for a number in a row of numbers."""
LONGEST: Final = 120
"""Words in a phrase that loops, at most."""
SHORTEST: Final = 8
"""Words in a loop, at least: "ha ha ha ha ha" is not one."""
CHARACTERS: Final = 40
"""The same in characters, where there are hardly any spaces."""
BROKEN: Final = 0.05
"""Share of characters that no text holds (replacement, private, unassigned, halves of pairs) which makes it noise."""
JUMBLED: Final = 12
"""Different marks which make noise of an answer that has hardly a letter."""
MASHED: Final = 60
"""Letters in a word, from which on it has to have vowels like a word."""

_NOWHERE: Final = ("Cn", "Co", "Cs")
"""Categories of characters that stand in no text."""
_PARTS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:['\u2019][^\W_]+)*")
_MASHED: Final = re.compile(rf"[a-z]{{{MASHED},}}")
_CODE: Final = re.compile(r"^\s*[\[{(<|]|```|[=(){};]|^\s*(?:[-*\u2022]|\d+[.)])\s", re.MULTILINE)


def incoherence(text: str) -> Incoherence | None:
    """Why an answer is incoherent, or None where it is coherent.

    ``empty``: nothing but white space and punctuation. ``repeated``: one phrase, said over and over, is more than half
    of it. ``not language``: broken characters, a jumble of marks, or letters that make no word.

    Args:
        text: The answer.
    """
    visible = Counter(text)
    for c in list(visible):
        if c.isspace():
            del visible[c]
    kinds = Counter[str]()
    for c, times in visible.items():
        kinds[unicodedata.category(c)] += times
    if not any(kind[0] in "LNS" or kind in _NOWHERE for kind in kinds):
        return "empty"
    parts = [word.casefold() for word in _PARTS.findall(text)]
    if _loops(parts, text) or (len(parts) < 5 and _loops_without_spaces(text)):
        return "repeated"
    return "not language" if _is_noise(text, visible, kinds) else None


def _loops(parts: Sequence[str], text: str) -> bool:
    """Whether one phrase, said over and over without a break, makes up more than half of all words."""
    total = len(parts)
    runs = set(zip(parts, parts[1:], parts[2:], strict=False))
    if total < SHORTEST or len(runs) > total * (1 - LOOPING * 2 / 3):  # a phrase said three times leaves fewer
        return False
    for size in range(1, min(LONGEST, total // 3) + 1):
        times = next(times for words, times in TIMES if size >= words)
        run = 0
        for index in range(size, total):
            run = run + 1 if parts[index] == parts[index - size] else 0
            said = run + size
            if said > LOOPING * total and said >= max(times * size, SHORTEST):
                phrase = parts[index - size + 1 : index + 1]
                if said >= size * _times_of_data(phrase, said // size, text):
                    return True
    return False


def _times_of_data(phrase: Sequence[str], times: int, text: str) -> int:
    """How often a phrase has to be said where it is data, and 0 where it is prose."""
    if all(word.isdigit() for word in phrase):
        return NUMBERS
    lines = text.count("\n") >= times - 1
    return LINES if (lines and len(phrase) <= 3) or _CODE.search(text) else 0


def _loops_without_spaces(text: str) -> bool:
    """The same for characters: one word, or a script that has no spaces."""
    joined = "".join(text.split())
    if len(joined) < CHARACTERS:
        return False
    return any(
        len(match[0]) > LOOPING * len(joined) and len(match[0]) >= CHARACTERS
        for match in re.finditer(r"(.{1,40}?)\1{4,}", joined)
    )


def _is_noise(text: str, visible: Counter[str], kinds: Counter[str]) -> bool:
    """Whether broken characters, marks in a jumble or letters at random make up the answer."""
    total = visible.total()
    if visible["\ufffd"] + sum(kinds[kind] for kind in _NOWHERE) > BROKEN * total:
        return True
    letters = sum(times for kind, times in kinds.items() if kind[0] in "LMN")
    marks = sum(c.isascii() and not c.isalnum() for c in visible)
    if letters < 0.1 * total and marks >= JUMBLED:
        return True
    return any(
        2 * len(word) > total and 4 * sum(c in "aeiouy" for c in word) < len(word) for word in _MASHED.findall(text)
    )
