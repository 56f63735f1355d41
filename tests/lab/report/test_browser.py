"""The page in a real browser: nothing sticks out, everything can be read, nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.report import browser_check
from tests.lab.report.made_up_run import MadeUpRun

_missing = browser_check.missing()
pytestmark = pytest.mark.skipif(_missing is not None, reason=f"no browser check: {_missing}")


@pytest.fixture(scope="module")
def tab() -> Iterator[browser_check.Browser]:
    with browser_check.browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, page: str) -> dict[str, Path]:
    from realign_plugin.lab.report.page import write_report

    root = tmp_path_factory.mktemp("pages")
    (root / "usual.html").write_text(page, encoding="utf-8")
    tasks = ("gsm8k", "code", "中文", "हिन्दी", "english")
    many = MadeUpRun(root / "many", seeds=3, tasks=tasks, extra=11, trained=False).write()
    empty = root / "empty"
    empty.mkdir()
    (empty / "study.json").write_text('{"title": "AVeryLongTitleWithoutAnySpace' + "x" * 90 + '", "tables": ["main"]}')
    return {
        "usual": root / "usual.html",
        "many": write_report(many, root / "many.html"),
        "empty": write_report(empty, root / "empty.html"),
    }


@pytest.mark.parametrize("scheme", browser_check.SCHEMES)
@pytest.mark.parametrize("width", browser_check.WIDTHS)
@pytest.mark.parametrize("name", ["usual", "many", "empty"])
def test_everything_fits_and_can_be_read(
    tab: browser_check.Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    found = tab.findings(pages[name], width, scheme)
    assert found.overflow["wide"] <= width
    assert found.overflow["past"] == []
    assert found.contrast["count"] > (30 if name == "empty" else 1000)
    assert found.contrast["low"] == []
    assert found.contrast["size"] > 9
    assert found.clipped == []
    assert found.errors == []
    assert found.requests == []


@pytest.mark.parametrize("name", ["usual", "many", "empty"])
def test_nothing_is_clipped_on_paper(tab: browser_check.Browser, pages: dict[str, Path], name: str) -> None:
    assert tab.clipped_in_print(pages[name]) == []


def test_dark_is_dark_and_charts_follow(tab: browser_check.Browser, pages: dict[str, Path]) -> None:
    colours = []
    for scheme in browser_check.SCHEMES:
        tab.open(pages["usual"], 1280, scheme)
        colours.append(
            tab.evaluate(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.querySelector('svg.chart text')).fill]"
            )
        )
    (paper, ink), (dark_paper, light_ink) = colours
    assert sum(map(int, paper[4:-1].split(", "))) > 700 > 150 > sum(map(int, dark_paper[4:-1].split(", ")))
    assert ink != light_ink


def test_the_check_finds_what_is_wrong(tab: browser_check.Browser, tmp_path: Path) -> None:
    """A page with each fault; without this a check that sees nothing would pass for a good page."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><meta charset=utf-8><meta name=viewport content='width=device-width'><body>"
        "<p style='color:#999;background:#fff'>pale</p><div style='width:2000px'>wide</div>"
        "<main><section id=t><table><tr><td style='min-width:1500px'>x</table></section></main>"
        "<img src=missing.png><svg class=chart width=50 height=20><text x=40 y=15>sticks out of it</text></svg>"
    )
    found = tab.findings(bad, 390, "light")
    assert found.overflow["wide"] > 390
    assert found.overflow["past"]
    assert [one["text"] for one in found.contrast["low"]] == ["pale"]
    assert found.clipped == ["sticks out of it"]
    assert found.requests or found.errors
    assert tab.clipped_in_print(bad) == ["TABLE in t"]
