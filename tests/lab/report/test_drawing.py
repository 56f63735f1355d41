"""Figures become SVG of the page's own colours, with ids of their own."""

from __future__ import annotations

import re

import pytest

from realign_plugin.lab.report.drawing import _page_style, canvas, colour, inline_svg


def picture(name: str, label: str = "x") -> str:
    with canvas(200, 100) as (figure, axes):
        axes.plot([0, 1], [0, 1], "o-", color=colour("ink"))
        axes.set_xlabel(label)
        return str(inline_svg(figure, name, f"A line <{label}>."))


def test_two_pictures_share_no_id_and_each_finds_its_own() -> None:
    one, two = picture("one"), picture("two")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) == known


def test_only_variables_are_left_of_the_colours() -> None:
    svg = picture("one")
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?!\))", re.sub(r'href="#[^"]*"|url\(#[^)]*\)', "", svg))
    assert "DejaVu" not in svg
    assert "<metadata" not in svg


def test_a_colour_that_is_not_the_page_s_is_refused() -> None:
    with canvas(50, 50) as (figure, axes):
        axes.plot([0, 1], [0, 1], color="#123456")
        with pytest.raises(KeyError, match="#123456"):
            inline_svg(figure, "x", "x")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", ["<b>&amp;", "$x^2$ and $", "中文标签", "हिन्दी"])
def test_labels_stay_what_they_are(label: str) -> None:
    svg = picture("one", label)
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f">{escaped}</text>" in svg
    assert 'role="img"' in svg
    assert f'aria-label="A line &lt;{escaped}&gt;."' in svg


@pytest.mark.parametrize(
    ("style", "kept"),
    [
        ("font: 12px 'DejaVu Sans', Arial; text-anchor: middle", "font-size: 12px; text-anchor: middle"),
        ("font: 700 11.5px 'DejaVu Sans'", "font-weight: 700;font-size: 11.5px;"),
        ("font: italic bold 9px x; fill: none", "font-weight: bold;font-size: 9px; fill: none"),
        ("font-size: 12px; font-family: 'DejaVu Sans'; font-weight: bold", "font-size: 12px;  font-weight: bold"),
    ],
)
def test_the_font_is_the_page_s_whichever_way_matplotlib_writes_it(style: str, kept: str) -> None:
    assert _page_style(style) == kept
