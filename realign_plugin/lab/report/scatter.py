"""Harmful rate against skill, one picture for each group: a good model lies at the top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.lab.records import REPAIRED_ROLES, Cell, Row, Table
from realign_plugin.lab.report.axes import Axis, safety_axis, skill_axes
from realign_plugin.lab.report.drawing import canvas, colour, inline_svg, role_name
from realign_plugin.lab.report.numbers import percent
from realign_plugin.lab.report.point_labels import write_numbers

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 420, 340
MARKERS: Final = {
    "base": "s",
    "aligned": "D",
    "fine-tuned": "v",
    "realigned": "o",
    "baseline": "^",
    "fused": "P",
    "fused-realigned": "h",
    "other": "X",
}


@dataclass(frozen=True)
class Point:
    """A model on both axes.

    Attributes:
        row: Its row.
        x: The safety axis, as a share; less is better.
        y: Skill, as a share; more is better.
        number: Its number in the picture if it is not dominated, else None.
    """

    row: Row
    x: Cell
    y: Cell
    number: int | None = None

    @property
    def words(self) -> str:
        """Both numbers."""
        return f"{percent(self.x.value or 0.0)}, {percent(self.y.value or 0.0)}"


@dataclass(frozen=True)
class Panel:
    """One group's picture.

    Attributes:
        group: The group.
        x: The safety axis.
        y: The group's skill.
        front: The points that are not dominated, by their numbers.
        left_out: Titles of rows that lack one of the axes.
        svg: The picture.
    """

    group: str
    x: Axis
    y: Axis
    front: list[Point]
    left_out: list[str]
    svg: Markup


@dataclass
class Scatter:
    """All panels.

    Attributes:
        panels: One a group.
        roles: Roles that are drawn, in the order of the legend.
    """

    panels: list[Panel] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)


def on_front(points: Sequence[Point]) -> list[bool]:
    """Which points are not dominated: no other is at least as good on both axes and better on one."""
    spots = [(point.x.value or 0.0, point.y.value or 0.0) for point in points]
    return [not any(a <= x and b >= y and (a < x or b > y) for a, b in spots) for x, y in spots]


def draw_scatter(table: Table) -> Scatter:
    """Draw a panel for each group that was repaired; the base and the aligned model are in each."""
    x, skills, result = safety_axis(table), skill_axes(table), Scatter()
    if x is None:
        return result
    start = [row for row in table.rows if row.role in ("base", "aligned")]
    seen = set()
    for number, (group, rows) in enumerate(table.groups.items()):
        y = skills.get(group)
        if y is None or not any(row.role in REPAIRED_ROLES for row in rows):
            continue
        cells = [(row, x.cell(row), y.cell(row)) for row in [*start, *(r for r in rows if r not in start)]]
        points = [Point(*one) for one in cells if one[1].value is not None and one[2].value is not None]
        if len(points) < 2:
            continue
        # Numbered from left to right, so that points that lie together have numbers that follow each other.
        points.sort(key=lambda point: (point.x.value or 0.0, -(point.y.value or 0.0)))
        front, drawn, count = on_front(points), [], 0
        for point, best in zip(points, front, strict=True):
            count += best
            drawn.append(Point(point.row, point.x, point.y, count if best else None))
        placed = {id(point.row) for point in points}
        left_out = [row.title for row, *_ in cells if id(row) not in placed]
        svg = _draw(drawn, group, x, y, f"both-axes-{number}")
        result.panels.append(Panel(group, x, y, [p for p in drawn if p.number], left_out, svg))
        seen |= {role_name(point.row.role) for point in points}
    result.roles = [role for role in MARKERS if role in seen]
    return result


def _draw(points: Sequence[Point], group: str, x: Axis, y: Axis, name: str) -> Markup:
    from matplotlib.ticker import PercentFormatter

    with canvas(WIDTH, HEIGHT) as (figure, axes):
        axes.grid(True)
        for point in points:
            _draw_point(axes, point)
        steps = sorted((p.x.value or 0.0, p.y.value or 0.0) for p in points if p.number)
        axes.step(*zip(*steps, strict=True), where="post", color=colour("muted"), linewidth=1, linestyle=(0, (3, 3)))
        ends = [v for p in points for c in (p.y,) for v in (c.value, c.low, c.high) if v is not None]
        low, high = min(ends), max(ends)
        room = max(0.03, 0.08 * (high - low))
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(max(-0.04, low - room), max(0.1, min(1.06, high + room)))
        axes.set_xlabel(f"{x.label} (less is better)")
        axes.set_ylabel("skill (more is better)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        figure.canvas.draw()
        marked = [point for point in points if point.number]
        spots = [(p.x.value or 0.0, p.y.value or 0.0) for p in (*marked, *(p for p in points if not p.number))]
        write_numbers(axes, spots, [point.number or 0 for point in marked])
        return inline_svg(figure, name, _words(points, group, x, y))


def _draw_point(axes: Any, point: Point) -> None:
    role = role_name(point.row.role)
    shade = colour(f"role-{role}")
    for cell, vertical in ((point.x, False), (point.y, True)):
        if cell.low is not None and cell.high is not None:
            line = ([point.x.value] * 2, [cell.low, cell.high])
            axes.plot(
                *(line if vertical else ([cell.low, cell.high], [point.y.value] * 2)), color=shade, linewidth=0.9
            )
    ring = colour("ink") if point.number else colour("paper")
    axes.plot(
        point.x.value,
        point.y.value,
        MARKERS[role],
        markersize=8.5 if point.number else 7,
        markerfacecolor=shade,
        markeredgecolor=ring,
        markeredgewidth=1.3 if point.number else 0.7,
        clip_on=False,
        zorder=4 if point.number else 3,
    )


def _words(points: Sequence[Point], group: str, x: Axis, y: Axis) -> str:
    rows = "; ".join(f"{p.row.title}: {p.words}{', not dominated' if p.number else ''}" for p in points)
    return f"Scatter of {group}: {x.label} (less is better) and {y.label} (more is better). {rows}."
