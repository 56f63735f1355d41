"""What a repair says of its inputs, and what it does with the folder that it is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.repair import running
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


def test_a_repair_goes_on_however_its_folders_are_named(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[Path, dict[str, Any]]] = []

    def train(name: str, recipe: Path, arguments: dict[str, Any], *_: Any) -> None:
        begun.append((recipe, arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "train", train)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "harmful.json").symlink_to(given["prompts"][0])
    (tmp_path / "adapter").symlink_to(given["adapter"])
    others: tuple[dict[str, Any], ...] = (
        {"out": tmp_path / "sub" / ".." / "out"},
        {"out": tmp_path / "link" / "out", "base": given["base"] + "/"},
        {"adapter": tmp_path / "adapter", "prompts": [str(tmp_path / "link" / "harmful.json")]},
    )
    for changes in ({}, *others):
        with pytest.raises(KeyboardInterrupt):
            run(given, **changes)
    assert len(begun) == 4
    assert all(one == begun[0] for one in begun)
    with pytest.raises(UserError, match=r"holds a repair with other inputs \(base, files\)"):
        run(given, base=str(shutil.copytree(given["base"], tmp_path / "base")))
