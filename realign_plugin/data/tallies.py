"""What happened to the rows of a source: how many were read, how many were left out, why, and where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

FIRST_BAD: Final = 20
FIRST_PLACES: Final = 5


@dataclass
class Tally:
    """Counts of one run.

    Attributes:
        unit: What a place counts: ``line`` or ``row``.
        read: Rows of the source.
        dropped: Valid rows that were left out, by reason.
        bad: Rows that were not what they should be, by reason.
        first_bad: The first bad rows: place and reason.
        places: The first places of each reason.
        repeated: Rows that were there before and are kept.
        contradictions: Pairs that prefer what an earlier pair rejects; they are kept.
    """

    unit: str
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: list[tuple[int, str]] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    repeated: int = 0
    contradictions: int = 0

    def note_bad(self, place: int, reason: str) -> None:
        """Count a bad row."""
        self.bad[reason] += 1
        if len(self.first_bad) < FIRST_BAD:
            self.first_bad.append((place, reason))
        places = self.places.setdefault(reason, [])
        if len(places) < FIRST_PLACES:
            places.append(place)

    def reasons(self) -> str:
        """Why rows were left out, on one line."""
        counts = [f"{reason} {count:,}" for reason, count in sorted((self.dropped + self.bad).items())]
        return "; ".join(counts) or "no rows"

    def bad_lines(self) -> list[str]:
        """One line for each kind of bad row, with the first places."""
        lines = []
        for reason, count in sorted(self.bad.items()):
            places = ", ".join(map(str, self.places[reason]))
            more = ", …" if count > len(self.places[reason]) else ""
            plural = "" if count == 1 else "s"
            lines.append(f"bad rows: {reason}: {count:,} ({self.unit}{plural} {places}{more})")
        return lines
