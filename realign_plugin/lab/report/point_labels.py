"""Numbers next to the points of a picture, placed where they cover as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from realign_plugin.lab.report.drawing import HALO

NEAR: Final = 16.0
"""Points closer than this, in pixels, share one label."""
_AROUND: Final = ((9, 6), (9, -14), (-9, 6), (-9, -14), (9, 18), (-9, 18), (9, -26), (-9, -26), (22, -4), (-22, -4))
_FIGURE: Final = 7.2
_HEIGHT: Final = 10

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


def write_numbers(axes: Any, spots: Sequence[tuple[float, float]], numbers: Sequence[int]) -> None:
    """Write numbers next to points, one label for points that lie together.

    Args:
        axes: matplotlib's axes, laid out already.
        spots: Where all points lie, in the axes' units; those that have a number come first.
        numbers: Their numbers.
    """
    pixels = [tuple(axes.transData.transform(spot)) for spot in spots]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    room = axes.bbox
    for heap in heaps(pixels[: len(numbers)]):
        text = runs([numbers[index] for index in heap])
        x, y = pixels[heap[0]]
        wide = _FIGURE * len(text)
        choices: list[tuple[Box, tuple[int, int]]] = []
        for across, up in _AROUND:
            left = x + across if across > 0 else x + across - wide
            choices.append(((left, y + up, left + wide, y + up + _HEIGHT), (across, up)))
        inside = [
            (box, place)
            for box, place in choices
            if box[0] > room.x0 and box[2] < room.x1 and box[1] > room.y0 and box[3] < room.y1 + _HEIGHT
        ]
        box, place = min(inside or choices, key=lambda choice: sum(overlap(choice[0], other) for other in taken))
        taken.append(box)
        axes.annotate(
            text,
            spots[heap[0]],
            xytext=place,
            textcoords="offset pixels",
            ha="left" if place[0] > 0 else "right",
            fontsize=12,
            fontweight="bold",
            zorder=5,
            gid=f"{HALO}-{heap[0]}",
        )


def heaps(pixels: Sequence[tuple[float, ...]]) -> list[list[int]]:
    """Points that lie together, by their indices; each group around its first point."""
    found: list[list[int]] = []
    for index, (x, y) in enumerate(pixels):
        for heap in found:
            if abs(pixels[heap[0]][0] - x) < NEAR and abs(pixels[heap[0]][1] - y) < NEAR:
                heap.append(index)
                break
        else:
            found.append([index])
    return found


def overlap(one: Box, two: Box) -> float:
    """The area that two boxes share, in square pixels."""
    wide = min(one[2], two[2]) - max(one[0], two[0])
    high = min(one[3], two[3]) - max(one[1], two[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def runs(numbers: Sequence[int]) -> str:
    """Numbers with runs drawn together: ``1–3, 5``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in found)
