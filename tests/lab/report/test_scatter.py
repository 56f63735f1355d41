"""Which models are on the front, and how they are numbered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realign_plugin.lab.records import Cell, Row
from realign_plugin.lab.report.point_labels import heaps, overlap, runs
from realign_plugin.lab.report.scatter import Point, draw_scatter, on_front
from tests.lab.report.test_axes import HARMFUL, skill, table

SPOTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=25)


def points(spots: list[tuple[int, int]]) -> list[Point]:
    return [Point(Row(model="m", label="m"), Cell(value=x / 8), Cell(value=y / 8)) for x, y in spots]


@given(SPOTS)
def test_the_front_is_what_nothing_dominates(spots: list[tuple[int, int]]) -> None:
    front = {spot for spot, best in zip(spots, on_front(points(spots)), strict=True) if best}
    for x, y in front:
        assert not any((a, b) != (x, y) and a <= x and b >= y for a, b in spots)
    for x, y in set(spots) - front:
        assert any(a <= x and b >= y for a, b in front)


def test_panels_number_the_front_from_left_to_right() -> None:
    made = table(
        [HARMFUL, skill("task")],
        ("start", "base", {"harmful": 95, "task": 10}),
        ("start", "aligned", {"harmful": 1, "task": 10}),
        ("task", "fine-tuned", {"harmful": 90, "task": 80}),
        ("task", "realigned", {"harmful": 2, "task": 79}),
        ("task", "baseline", {"harmful": 30, "task": 60}),
        ("task", "baseline", {"harmful": 3}),
        ("unrepaired", "fine-tuned", {"harmful": 90, "task": 80}),
    )
    (panel,) = draw_scatter(made).panels
    assert [(point.number, point.row.role) for point in panel.front] == [
        (1, "aligned"), (2, "realigned"), (3, "fine-tuned"),
    ]  # fmt: skip
    assert panel.left_out == ["baseline"]
    assert draw_scatter(made).roles == ["base", "aligned", "fine-tuned", "realigned", "baseline"]
    assert ">1</text>" in panel.svg


def test_many_models_at_one_spot_share_a_label() -> None:
    rows = [("task", "realigned", {"harmful": 0, "task": 100})] * 6
    (panel,) = draw_scatter(
        table([HARMFUL, skill("task")], ("task", "fine-tuned", {"harmful": 90, "task": 90}), *rows)
    ).panels
    assert ">1–6</text>" in panel.svg


def test_numbers_are_drawn_together() -> None:
    assert runs([3, 1, 2, 7, 5, 8]) == "1–3, 5, 7, 8"
    assert heaps([(0, 0), (10, 10), (40, 0), (41, 3)]) == [[0, 1], [2, 3]]
    assert overlap((0, 0, 4, 4), (2, 3, 9, 9)) == 2
    assert overlap((0, 0, 4, 4), (5, 0, 9, 9)) == 0
