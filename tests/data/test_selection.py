"""Splits and limits depend on seed and row, never on order."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realign_plugin.data.kinds import preference
from realign_plugin.data.recipe import Request
from realign_plugin.data.selection import Smallest, folded, in_validation, keyed_hash
from realign_plugin.errors import UserError
from tests.data.conftest import read_lines, write_lines

WORDS = st.sampled_from(["kite", "Kite", "bread", "纸", "straße", "STRASSE", "ﬁg"])
PROMPTS = st.lists(WORDS, min_size=1, max_size=4).flatmap(
    lambda words: st.sampled_from([" ", "\n", " \t ", "\u3000"]).map(lambda space: space.join(words))
)
PAIRS = st.lists(
    st.fixed_dictionaries(
        {"prompt": PROMPTS, "chosen": st.text("ab", min_size=1), "rejected": st.text("ab", min_size=1)}
    ),
    min_size=1,
    max_size=40,
)


def made(
    folder: Path, rows: list[dict[str, Any]], unique: bool = False, **options: Any
) -> tuple[list[Any], list[Any]]:
    """The training and the validation rows that the rows give."""
    source = write_lines(folder / "source.jsonl", rows)
    for old in folder.glob("p*"):
        old.unlink()
    try:
        request = Request(folder, "p", overwrite=True, **{"validation": 0.1, **options})
        preference(request, source=str(source), unique=unique)
    except UserError as error:
        if "leaves no" not in str(error) and "no row is left" not in str(error):
            raise
        return [], []
    validation = folder / "p_validation.jsonl"
    return read_lines(folder / "p.jsonl"), read_lines(validation) if validation.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


def plain(prompt: str) -> str:
    """The prompt as the split should see it, put together anew."""
    return re.sub(r"\s+", " ", prompt.strip()).casefold()


def as_set(rows: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(PAIRS, st.floats(0, 0.9), st.integers(-3, 3), st.randoms(use_true_random=False))
@QUICK
def test_no_prompt_is_in_both_halves_and_order_does_not_matter(
    folder: Path, rows: list[dict[str, Any]], share: float, seed: int, shuffler: random.Random
) -> None:
    training, validation = made(folder, rows, validation=share, seed=seed)
    assert not {plain(row["prompt"]) for row in training} & {plain(row["prompt"]) for row in validation}
    if training:
        kept = {(r["prompt"], r["chosen"], r["rejected"]) for r in rows if r["chosen"] != r["rejected"]}
        assert as_set(training) | as_set(validation) == kept
        sound = [r for r in rows if r["chosen"] != r["rejected"]]
        assert len(training) + len(validation) == len(sound)
        shuffled = shuffler.sample(rows, len(rows))
        again = made(folder, shuffled, validation=share, seed=seed)
        assert (as_set(again[0]), as_set(again[1])) == (as_set(training), as_set(validation))


@given(PAIRS, st.integers(1, 12), st.integers(0, 12), st.integers(0, 3), st.randoms(use_true_random=False))
@QUICK
def test_limits_are_nested_and_order_does_not_matter(
    folder: Path, rows: list[dict[str, Any]], low: int, more: int, seed: int, shuffler: random.Random
) -> None:
    everything, _ = made(folder, rows, validation=0, seed=seed, unique=True)
    assert len(everything) == len(as_set(everything))
    small, _ = made(folder, rows, validation=0, seed=seed, limit=low)
    large, _ = made(folder, shuffler.sample(rows, len(rows)), validation=0, seed=seed, limit=low + more)
    assert as_set(small) <= as_set(large) <= as_set(everything)
    assert len(small) == min(low, len(everything))
    assert len(large) == min(low + more, len(everything))


def test_a_prompt_is_in_the_same_half_whatever_file_it_came_from(folder: Path) -> None:
    rows = [{"prompt": f"fold kite {n}", "chosen": "no", "rejected": "yes"} for n in range(60)]
    others = [{"question": f" FOLD\n kite  {n}", "chosen": "a", "rejected": "b"} for n in range(0, 90, 2)]
    first, second = made(folder, rows, validation=0.4), made(folder, others, validation=0.4)
    for one, other in ((0, 1), (1, 0)):
        held = {plain(row["prompt"]) for row in first[one]}
        assert not held & {plain(row["prompt"]) for row in second[other]}
    assert first[1]
    assert second[1]


def test_the_share_and_the_choice_are_about_right_and_follow_the_seed() -> None:
    prompts = [f"kite {n}" for n in range(4000)]
    held = [{p for p in prompts if in_validation(seed, p, 0.1)} for seed in (0, 1)]
    assert all(300 < len(part) < 500 for part in held)
    assert len(held[0] & held[1]) < 90
    assert not any(in_validation(0, p, 0.0) for p in prompts)
    assert held[0] <= {p for p in prompts if in_validation(0, p, 0.2)}


def test_case_and_white_space_do_not_matter() -> None:
    assert folded(" Fold\n\t a\u3000KITE ") == "fold a kite"
    assert folded("Straße") == folded("STRASSE")
    assert folded("akite") != folded("a kite")


def test_the_hash_is_sha256_and_tells_parts_apart() -> None:
    assert keyed_hash(0, "a", "bc") != keyed_hash(0, "a", "b", "c")
    assert len({keyed_hash(0, "split", "x"), keyed_hash(1, "split", "x"), keyed_hash(0, "limit", "x")}) == 3
    # Fixed: what it gives may never change, or splits made before would not fit those made after.
    assert keyed_hash(0, "split", "kite") == 5_460_327_497_338_058_919


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=60), st.integers(1, 20))
def test_the_heap_keeps_the_smallest(values: list[int], count: int) -> None:
    chosen = Smallest(count)
    for place, value in enumerate(values):
        if chosen.enters(value):
            chosen.add(value, place, value % 7)
    smallest = sorted(values)[:count]
    assert [values[place] for place in chosen.places()] == [v for v in values if v in smallest]
    assert chosen.prompts() == {value % 7 for value in smallest}
    assert len(chosen) == len(smallest)
