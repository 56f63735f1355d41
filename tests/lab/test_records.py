"""Facts as JSON: of this version, of an earlier one, and of one that is yet to come."""

from __future__ import annotations

import json
from pathlib import Path

from realign_plugin.lab.records import Cell, Column, Marker, Row, Study, Table, Training
from realign_plugin.lab.report.page import write_report
from realign_plugin.lab.report.run import read_run

EARLIER = {
    "title": "Earlier", "created": "2026-11-01T00:00:00+00:00", "config": {}, "versions": {}, "seeds": [0, 1],
    "groups": {}, "tables": ["main"], "later_key": [1],
    "models": [
        {"id": "t-paper-0-soft", "label": "realigned (soft)", "group": "t", "role": "realigned", "method": "paper",
         "seed": 0, "subspace": None},
    ],
    "trainings": [{"id": f"t-paper-{n}", "label": f"t-paper-{n}: masked DPO", "folder": f"models/t-paper-{n}",
                   "stage": "mask_dpo"} for n in range(2)],
}  # fmt: skip
RATES = {"t": 0.9, "t-paper-0-soft": 0.1, "t-paper-1-soft": 0.2}
LABELS = {"t": "fine-tuned", "t-paper-0-soft": "realigned (soft)", "t-paper-1-soft": "realigned (soft), seed 1"}


def earlier_study(folder: Path) -> Path:
    rows = [
        {"model": name, "label": label, "group": "t", "role": "fine-tuned" if name == "t" else "realigned", "seed": 0,
         "method": "paper", "subspace": None, "cells": {"s.harmful_rate": {"value": RATES[name], "low": None}}}
        for name, label in LABELS.items()
    ]  # fmt: skip
    column = {"key": "s.harmful_rate", "task": "s", "metric": "harmful_rate", "label": "harm", "axis": "safety"}
    table = {"name": "main", "title": "T", "description": "", "columns": [column | {"better": "lower"}], "rows": rows}
    (folder / "tables").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(EARLIER))
    (folder / "tables" / "main.json").write_text(json.dumps(table | {"seeds": [0], "versions": {}, "config": {}}))
    return folder


def test_a_study_of_an_earlier_version_is_shown_as_it_is(tmp_path: Path) -> None:
    run = read_run(earlier_study(tmp_path))
    assert [training.title for training in run.study.trainings] == ["t-paper-0: masked DPO", "t-paper-1: masked DPO"]
    assert run.main is not None
    assert [row.title for row in run.main.rows] == list(LABELS.values())
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "realigned (soft), seed 1" in page
    assert "t-paper-1: masked DPO: no log in models/t-paper-1." in page


def test_a_role_of_an_earlier_version_has_its_present_name() -> None:
    assert Row(label="SFT", model="t-sft-0", role="rival").role == "baseline"


def test_a_table_of_an_earlier_version_has_what_the_study_knows_now(tmp_path: Path) -> None:
    """A study that is started again writes study.json, but makes no table again that is done."""
    folder = earlier_study(tmp_path)
    study = json.loads((folder / "study.json").read_text())
    study["models"][0] |= {"name": "realigned (soft)", "fusion": "ties"}
    (folder / "study.json").write_text(json.dumps(study))
    main = read_run(folder).main
    assert main is not None
    assert [(row.title, row.fusion) for row in main.rows] == [
        ("fine-tuned", None), ("realigned (soft), seed 0", "ties"), ("realigned (soft), seed 1", None),
    ]  # fmt: skip


def test_records_come_back_as_they_were() -> None:
    column = Column.of("task", "acc", "skill", "skill", "higher")
    cells = {column.key: Cell(0.5, 0.4, 0.6, 5, 10), "other": Cell(reason="off")}
    row = Row(model="m", label="m (ties), seed 1", name="m (ties)", seed=1, fusion="ties", cells=cells)
    table = Table(name="main", columns=[column], rows=[row])
    assert Table.model_validate_json(json.dumps(table.model_dump())) == table
    written = table.model_dump()["rows"][0]["cells"]
    assert written[column.key] == {"value": 0.5, "low": 0.4, "high": 0.6, "hits": 5, "count": 10}
    assert (written["other"]["value"], written["other"]["reason"]) == (None, "off")


def test_numbers_that_are_none_and_characters_that_no_page_holds_are_replaced() -> None:
    row = Row.model_validate_json('{"model": 3, "label": "a\\u0001b", "cells": {"k": {"value": NaN, "count": NaN}}}')
    assert (row.model, row.label, row.cell("k")) == ("3", "a\N{REPLACEMENT CHARACTER}b", Cell())
    assert row.cell("none") == Cell()


def test_seeds_have_one_title_and_others_their_label() -> None:
    seeds = [Training(id=f"p-{n}", label=f"p-{n}: DPO", name="p: DPO", folder="f", seed=n) for n in range(2)]
    assert {training.title for training in seeds} == {"p: DPO"}
    assert Training(id="sft", label="sft: SFT", folder="f").title == "sft: SFT"
    assert Study(title="x", groups={"t": "Task"}).group_label("t") == "Task"


def test_a_marker_of_an_earlier_version_is_read() -> None:
    found = Marker.model_validate({"fingerprint": "f", "commands": ["c"], "seconds": 1, "log": "l", "later": 1})
    assert (found.name, found.commands) == ("", ["c"])
