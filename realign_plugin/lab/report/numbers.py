"""Numbers as the page writes them: shares in per cent, intervals, differences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from realign_plugin.lab.records import Cell, Column, Row

MINUS: Final = "\N{MINUS SIGN}"
DASH: Final = "\N{EN DASH}"
NO_SHARES: Final = ("score", "perplexity", "bits_per_byte")
"""Parts of the names of columns whose numbers may lie between 0 and 1 without being shares."""
THIN: Final = "\N{NARROW NO-BREAK SPACE}"


def is_share(column: Column, rows: Iterable[Row]) -> bool:
    """Whether a column holds shares, to be written in per cent: all in [0, 1], and not called something else."""
    if not column.share or any(name in column.key.lower() for name in NO_SHARES):
        return False
    values = [row.cell(column.key).value for row in rows]
    known = [value for value in values if value is not None]
    return bool(known) and all(0.0 <= value <= 1.0 for value in known)


def number(value: float, share: bool) -> str:
    """A number for a table: one place after the point for shares (in per cent), else three figures or two places."""
    if share:
        return _signed(f"{value * 100:.1f}")
    return _signed(f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}")


def percent(value: float) -> str:
    """A share for running text: ``97.5 %``, ``3 %``."""
    return f"{short(value)}{THIN}%"


def short(value: float) -> str:
    """A share in per cent without the sign, a place after the point only where it is not zero."""
    return _signed(f"{value * 100:.1f}".removesuffix(".0"))


def interval(cell: Cell, share: bool) -> str | None:
    """The ends of a cell's interval, ``94.1–99.0``; None where none is known."""
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return f"{number(cell.low, share)}{DASH}{number(cell.high, share)}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{abs(value) * 100:.1f}"
    if text == "0.0":
        return "±0.0"
    return f"{'+' if value > 0 else MINUS}{text}"


def span(values: Iterable[float]) -> str:
    """The least and the greatest of some shares, ``0–4 %``; one number where they are the same."""
    known = list(values)
    low, high = short(min(known)), short(max(known))
    return f"{low}{THIN}%" if low == high else f"{low}{DASH}{high}{THIN}%"


def duration(seconds: float) -> str:
    """Seconds as ``12.3 s``, ``4 min 05 s`` or ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _signed(text: str) -> str:
    return "0" + text[2:] if text.strip("-0.") == "" and text.startswith("-") else text.replace("-", MINUS)
