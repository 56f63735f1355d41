"""What a repair says of its inputs, and what it does with the folder that it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.repair.ruled import Ruled, run

pytestmark = pytest.mark.usefixtures("small_budget")


def test_rows_that_are_left_out_are_told(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(Path(given["skill"][0]).read_text())
    for row in rows[::2]:
        row["answer"] *= 200
    file = given["out"].with_name("long.json")
    file.write_text(json.dumps(rows))
    Ruled.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(given, skill=[str(file)])
    assert "--skill: 20 of 40 rows are left out, longer than 512 tokens" in " ".join(capsys.readouterr().out.split())
