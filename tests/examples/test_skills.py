"""The bench's skills: rows whose answers can be said to be right."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "bench"))
import skills


@pytest.mark.parametrize("kind", [skills.date, skills.sorting])
def test_rows_of_a_skill_are_distinct_and_repeatable(kind: Callable[[random.Random], tuple[str, str]]) -> None:
    rows = skills.rows(kind, 50, 3)
    assert len({row["instruction"] for row in rows}) == 50
    assert rows == skills.rows(kind, 50, 3) != skills.rows(kind, 50, 4)


def test_the_answers_of_the_skills_are_right() -> None:
    for row in skills.rows(skills.date, 80, 0):
        found = date.fromisoformat(row["output"])
        words = row["instruction"].removeprefix(skills.DATE).replace(",", "").split()
        assert str(found.year) in words
        assert skills.MONTHS[found.month - 1] in words
        assert any("".join(filter(str.isdigit, word)) == str(found.day) for word in words)
    for row in skills.rows(skills.sorting, 80, 0):
        words = row["instruction"].removeprefix(skills.SORT).split(", ")
        said = row["output"].split(", ")
        assert sorted(words) == sorted(said)
        assert all(one.lower() <= two.lower() for one, two in pairwise(said))
