from __future__ import annotations

import pytest
from rich.table import Table

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
