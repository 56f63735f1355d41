from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

import realign_plugin
from realign_plugin.terminal import new_console

EVIL = "[red]a[/red] [/] :bug: [link=x]"


def test_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = new_console()
    table = Table(EVIL, title=EVIL)
    table.add_row(f"{EVIL} in a cell")
    console.print(table)
    console.print(f"said: {EVIL}", style="yellow")
    out = capsys.readouterr().out
    assert out.count(EVIL) == 4
    assert "\x1b" not in out


def test_no_other_console_reads_markup() -> None:
    package = Path(realign_plugin.__file__).parent
    made = {file.name for file in package.rglob("*.py") if "rich.console import Console" in file.read_text()}
    assert made == {"terminal.py", "progress.py", "judge.py"}  # the last two draw a bar each, with words of ours
