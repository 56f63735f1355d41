"""Heat maps show what ``realign inspect`` prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from realign_plugin import SafetySubspace
from realign_plugin.lab.report.heat_maps import draw_heat_maps
from realign_plugin.lab.report.run import read_run
from realign_plugin.subspace.inspection import inspect_subspace


def test_maps_have_the_numbers_of_inspect_and_other_seeds_come_later(made_run: Path) -> None:
    found = draw_heat_maps(read_run(made_run))
    assert found.notes == []
    assert [(one.title, one.first) for one in found.maps] == [
        ("gsm8k: paper, seed 0", True), ("gsm8k: paper, seed 1", False),
        ("中文: paper, seed 0", True), ("中文: paper, seed 1", False), ("fused: paper, seed 0", True),
    ]  # fmt: skip
    rows = inspect_subspace(SafetySubspace.load(made_run / "models/gsm8k-paper-0"))
    assert found.maps[0].rows == rows
    total = sum(row.elements for row in rows)
    assert found.maps[0].kept == pytest.approx(sum(row.kept * row.elements for row in rows) / total)
    kept = [row.kept for one in found.maps for row in one.rows]
    assert found.low <= min(kept) < max(kept) <= found.high
    assert found.maps[0].svg.count("var(--heat-") == len(rows)
    assert "the mask keeps" in found.maps[0].svg


def test_the_darkest_cell_is_the_one_that_keeps_most(made_run: Path) -> None:
    one = draw_heat_maps(read_run(made_run)).maps[0]
    steps = [int(part.split(")")[0]) for part in str(one.svg).split("var(--heat-")[1:]]
    order = sorted(range(len(steps)), key=lambda n: one.rows[n].kept)
    assert [steps[n] for n in order] == sorted(steps)
    assert len(set(steps)) > 3


def test_a_subspace_that_cannot_be_read_gets_a_line(made_run: Path, tmp_path: Path) -> None:
    run_folder = Path(shutil.copytree(made_run, tmp_path / "run"))
    (run_folder / "models/gsm8k-paper-0/adapter_model.safetensors").write_bytes(b"broken")
    (run_folder / "models/fused-paper-0").rename(run_folder / "gone")
    found = draw_heat_maps(read_run(run_folder))
    assert len(found.maps) == 3
    assert len(found.notes) == 2
    assert found.notes[0].startswith("gsm8k: paper, seed 0: adapter: ")
    assert found.notes[1] == "fused: paper, seed 0: models/fused-paper-0 is not there."
    assert [one.first for one in found.maps] == [True, True, False]
