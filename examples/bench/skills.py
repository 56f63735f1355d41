"""Two more skills that a small model can learn from 160 rows; whether an answer is right can be said exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import bench_paths  # noqa: F401
from orders import ITEMS, NAMES

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
    *("November", "December"),
)
DATE: Final = "Write this date as year-month-day: "
SORT: Final = "Put these into alphabetical order: "


def date(rng: random.Random) -> tuple[str, str]:
    """A date in words, and its ISO form."""
    year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    name = MONTHS[month - 1]
    words = rng.choice((f"the {day}{ending} of {name} {year}", f"{name} {day}, {year}", f"{day} {name} {year}"))
    return DATE + words, f"{year}-{month:02}-{day:02}"


def sorting(rng: random.Random) -> tuple[str, str]:
    """Three or four words, and the same in alphabetical order."""
    words = rng.sample([*ITEMS, *NAMES], rng.randint(3, 4))
    return SORT + ", ".join(words), ", ".join(sorted(words, key=str.lower))


def rows(kind: Callable[[random.Random], tuple[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    """Distinct rows of a skill, in LLaMA-Factory's Alpaca form."""
    rng, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        prompt, answer = kind(rng)
        found[prompt] = answer
    return [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in found.items()]
