"""What a repair leaves: the table, the report, and the run folder that the report is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from realign_plugin.files import write_json, write_text
from realign_plugin.lab.repair.dial import Candidate, Cost
from realign_plugin.lab.repair.outcome import NUMBERS, Row, Verdict
from realign_plugin.lab.repair.plan import Folders, Inputs, Method
from realign_plugin.lab.study.tables import versions
from realign_plugin.terminal import new_console
from realign_plugin.text_files import read_json

COLUMNS: Final[Mapping[str, tuple[str, str, str | None]]] = {
    "refusal_rate": ("refuses harmful", "safety", "higher"),
    "harmful_rate": ("harmful answers", "safety", "lower"),
    "over_refusal": ("refuses harmless", "over-refusal", "lower"),
    "agreement_harmful": ("agreement, harmful", "other", "higher"),
    "agreement_benign": ("agreement, harmless", "other", "higher"),
    "skill": ("skill: tokens right", "skill", "higher"),
    "skill_loss": ("skill: loss", "other", "lower"),
    "skill_divergence": ("skill: KL", "other", "lower"),
    "incoherent_rate": ("incoherent", "other", "lower"),
}
"""Heading, axis and good direction of each number."""
ROLES: Final = {"aligned": "aligned", "fine-tuned": "fine-tuned", "repaired": "realigned"}


def print_table(rows: Sequence[Row], verdict: Verdict, kept: Candidate) -> None:
    """Print before and after, and the sentence."""
    from rich.table import Table

    console = new_console()
    shown = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    table = Table(title="Before and after, on prompts that were not used", title_justify="left")
    table.add_column("model")
    for name in shown:
        table.add_column(COLUMNS[name][0], justify="right")
    for row in rows:
        cells = [number.text() if (number := getattr(row, name)) is not None else "–" for name in shown]
        table.add_row(row.model, *cells)
    console.print(table)
    console.print(f"Kept: {kept.method} at strength {kept.strength:g}. 95 % intervals in brackets.")
    console.print(verdict.sentence)
    for line in verdict.advice:
        console.print(f"* {line}")


def write_table(
    folders: Folders, rows: Sequence[Row], verdict: Verdict, kept: Candidate, tried: Mapping[str, Cost]
) -> None:
    """Write ``before_after.json``."""
    write_json(
        folders.out / "before_after.json",
        {
            "rows": [row.flat() for row in rows],
            "verdict": verdict.model_dump(),
            "kept": {"method": kept.method, "strength": kept.strength},
            "tried": {name: cost.model_dump() | {"total": cost.total} for name, cost in tried.items()},
            "versions": versions(),
        },
    )


def write_run(
    inputs: Inputs, folders: Folders, rows: Sequence[Row], kept: Candidate, tried: Mapping[str, Cost],
    trained: Mapping[Method, Path],
) -> None:  # fmt: skip
    """Write what ``realign report`` reads: ``study.json``, the tables and the commands.

    Args:
        inputs: What the user gave.
        folders: Where things are.
        rows: Aligned, fine-tuned and repaired.
        kept: What was kept.
        tried: What each candidate got wrong on the validation prompts.
        trained: Marker of each training.
    """
    subspace = "models/masks" if kept.method == "masks" else None
    models = [
        {
            "id": row.model, "label": row.model, "group": "repair", "role": ROLES[row.model],
            "method": kept.method if row.model == "repaired" else None,
            "subspace": subspace if row.model == "repaired" else None,
        }
        for row in rows
    ]  # fmt: skip
    labels = {"masks": "masks by self-distillation", "lora": "LoRA by self-distillation"}
    write_json(
        folders.work / "study.json",
        {
            "title": f"Repair of {inputs.adapter.name}",
            "config": inputs.model_dump(mode="json"),
            "versions": versions(),
            "seeds": [inputs.seed],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "models": models,
            "trainings": [
                {"id": method, "label": labels[method], "folder": f"models/{method}", "stage": "safety_distill"}
                for method in trained
            ],
            "tables": ["main", "choice"],
            "groups": {"repair": inputs.adapter.name},
        },
    )
    shown = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    columns = [dict(zip(("label", "axis", "better"), COLUMNS[name], strict=True)) | {"key": name} for name in shown]
    table_rows = []
    for row, model in zip(rows, models, strict=True):
        numbers = {name: getattr(row, name) for name in shown}
        cells = {name: n.model_dump() if n is not None else {"reason": "not measured"} for name, n in numbers.items()}
        table_rows.append({"model": model["id"], **{k: v for k, v in model.items() if k != "id"}, "cells": cells})
    _table(folders, "main", "Before and after", "On prompts that were used for nothing else.", columns, table_rows)
    costs = [("harmful", "disagreement, harmful"), ("benign", "disagreement, harmless"), ("skill", "skill lost")]
    _table(
        folders, "choice", "The choice of method and strength",
        "Shares on the validation prompts, the smaller the better; what has the smallest sum is kept.",
        [{"key": key, "label": label, "axis": "other", "better": "lower"} for key, label in costs],
        [
            {
                "model": name, "label": name + (" (kept)" if name == kept.name else ""), "group": "repair",
                "cells": {key: {"value": getattr(cost, key)} for key, _ in costs},
            }
            for name, cost in tried.items()
        ],
    )  # fmt: skip
    lines = []
    for method, done in trained.items():
        found = read_json(done, "", "a marker")
        log = Path(found["log"])
        lines.append(
            {
                "step": method, "kind": "realign", "command": found["command"], "seconds": found["seconds"],
                "log": log.relative_to(folders.work).as_posix() if log.is_relative_to(folders.work) else str(log),
            }
        )  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(folders.work / "commands.jsonl", text)


def _table(
    folders: Folders, name: str, title: str, description: str, columns: Sequence[Any], rows: Sequence[Any]
) -> None:
    table = {"name": name, "title": title, "description": description, "columns": list(columns), "rows": list(rows)}
    write_json(folders.work / "tables" / f"{name}.json", table)


assert set(COLUMNS) == set(NUMBERS)
