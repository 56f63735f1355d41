"""Which rows go where: by keyed hashes, so that a choice depends on seed and row, not on the file's order."""

from __future__ import annotations

import hashlib
import heapq
from typing import Final

HASH_BITS: Final = 64


def keyed_hash(seed: int, purpose: str, *parts: str) -> int:
    """The first 64 bits of the sha256 of a key and some texts.

    Args:
        seed: The key.
        purpose: What it is for, so that two choices with one seed are independent.
        parts: The texts; where one ends matters.
    """
    digest = hashlib.sha256()
    for part in (str(seed), purpose, *parts):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest()[: HASH_BITS // 8], "big")


def folded(prompt: str) -> str:
    """A prompt with its case folded and each run of white space made one space."""
    return " ".join(prompt.split()).casefold()


def in_validation(seed: int, prompt: str, share: float) -> bool:
    """Whether a prompt belongs to the validation half.

    Args:
        seed: The key.
        prompt: The prompt; case and white space do not matter.
        share: Share of prompts that do, from 0 to below 1.
    """
    return keyed_hash(seed, "split", folded(prompt)) < int(share * (1 << HASH_BITS))


class Smallest:
    """The rows with the smallest hashes so far, at most so many; what is kept of a row is a few numbers.

    Args:
        count: How many are kept, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[int, int, int]] = []

    def enters(self, value: int) -> bool:
        """Whether a row with this hash would be kept now."""
        return len(self._heap) < self._count or value < -self._heap[0][0]

    def add(self, value: int, place: int, prompt: int) -> None:
        """Keep a row, and drop the one with the largest hash where there are too many.

        Args:
            value: The row's hash.
            place: Where its text is kept; rises from row to row.
            prompt: Hash of its prompt.
        """
        item = (-value, -place, prompt)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def places(self) -> list[int]:
        """Where the texts of the kept rows are, in the order in which the rows came."""
        return sorted(-place for _, place, _ in self._heap)

    def prompts(self) -> set[int]:
        """Hashes of the kept rows' prompts."""
        return {prompt for _, _, prompt in self._heap}

    def __len__(self) -> int:
        return len(self._heap)
