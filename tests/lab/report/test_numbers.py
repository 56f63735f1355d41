"""Numbers as text."""

from __future__ import annotations

import pytest

from realign_plugin.lab.records import Cell, Column, Row
from realign_plugin.lab.report.numbers import duration, is_share, number, percent, points, span

THIN = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def test_shares_and_differences() -> None:
    assert percent(0.975) == f"97.5{THIN}%"
    assert percent(1.0) == f"100{THIN}%"
    assert percent(0.0004) == f"0{THIN}%"
    assert span([0.02, 0.5, 0.1]) == f"2–50{THIN}%"
    assert span([0.02, 0.0201]) == f"2{THIN}%"
    assert [points(v) for v in (0.5, -0.012, 0.0, -0.0001)] == ["+50.0", f"{MINUS}1.2", "±0.0", "±0.0"]


@pytest.mark.parametrize(
    ("value", "share", "text"),
    [(0.1234, True, "12.3"), (-0.0001, True, "0.0"), (-35.25, False, f"{MINUS}35.25"), (1234.5, False, "1234"),
     (-0.001, False, "0.00"), (0.0, False, "0.00")],
)  # fmt: skip
def test_numbers_of_tables(value: float, share: bool, text: str) -> None:
    assert number(value, share) == text


@pytest.mark.parametrize(
    ("key", "values", "share"),
    [("t.acc", (0.2, 1.0), True), ("t.acc", (0.2, 1.5), False), ("t.bits_per_byte", (0.8,), False),
     ("t.brier_score", (0.8,), False)],
)  # fmt: skip
def test_what_is_written_in_per_cent(key: str, values: tuple[float, ...], share: bool) -> None:
    column, rows = Column(key=key, label="x"), [Row(model="m", label="m", cells={key: Cell(v)}) for v in values]
    assert is_share(column, rows) is share
    assert not is_share(column.model_copy(update={"share": False}), rows)


def test_durations() -> None:
    assert [duration(s) for s in (0.04, 59.94, 113.6, 3599.9, 7800)] == [
        "0.0 s", "59.9 s", "1 min 54 s", "1 h 00 min", "2 h 10 min",
    ]  # fmt: skip
