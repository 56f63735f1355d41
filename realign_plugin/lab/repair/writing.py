"""What a repair leaves: the table, the report, and the run folder that the report is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from realign_plugin.files import write_json, write_text
from realign_plugin.lab.records import Cell, Column, Command, Described, Judging, Model, Row, Study, Table, Training
from realign_plugin.lab.repair.dial import Candidate, Cost
from realign_plugin.lab.repair.outcome import Verdict, flat, measured
from realign_plugin.lab.repair.plan import Folders, Inputs, Method
from realign_plugin.lab.repair.readings import Readings
from realign_plugin.lab.study.tables import versions
from realign_plugin.terminal import new_console
from realign_plugin.text_files import read_json

COLUMNS: Final[Mapping[str, Column]] = {
    column.key: column
    for column in (
        Column(key="refusal_rate", label="refuses harmful", axis="safety", better="higher"),
        Column(key="harmful_rate", label="harmful answers", axis="safety", better="lower"),
        Column(key="over_refusal", label="refuses harmless", axis="over-refusal", better="lower"),
        Column(key="agreement_harmful", label="agreement, harmful", better="higher"),
        Column(key="agreement_benign", label="agreement, harmless", better="higher"),
        Column(key="skill", label="skill: tokens right", axis="skill", better="higher"),
        Column(key="skill_loss", label="skill: loss", better="lower", share=False),
        Column(key="skill_divergence", label="skill: KL", better="lower", share=False),
        Column(key="incoherent_rate", label="incoherent", better="lower"),
    )
}
"""The numbers of a row, as columns."""
GROUP: Final = "repair"
STUDY: Final = "study.json"
"""What the report knows of a repair: there once that has come to its end."""
LABELS: Final[Mapping[Method, str]] = {"masks": "masks by self-distillation", "lora": "LoRA by self-distillation"}
ROLES: Final = {"aligned": "aligned", "fine-tuned": "fine-tuned", "repaired": "realigned"}


def print_table(rows: Sequence[Row], verdict: Verdict, kept: Candidate) -> None:
    """Print before and after, and the sentence."""
    from rich.table import Table

    console = new_console()
    shown = measured(rows)
    table = Table(title="Before and after, on prompts that were not used", title_justify="left")
    table.add_column("model")
    for name in shown:
        table.add_column(COLUMNS[name].label, justify="right")
    for row in rows:
        table.add_row(row.model, *(row.cell(name).text() for name in shown))
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
            "rows": [flat(row) for row in rows],
            "verdict": verdict.model_dump(),
            "kept": {"method": kept.method, "strength": kept.strength},
            "tried": {name: cost.model_dump() | {"total": cost.total} for name, cost in tried.items()},
            "versions": versions(),
        },
    )


def write_run(folders: Folders, study: Study, tables: Sequence[Table], trained: Mapping[Method, Path]) -> None:
    """Write what ``realign report`` reads: ``study.json``, the tables and the commands."""
    write_json(folders.work / STUDY, study.model_dump())
    for table in tables:
        write_json(folders.work / "tables" / f"{table.name}.json", table.model_dump())
    lines = []
    for method, done in trained.items():
        found = read_json(done, "", "a marker")
        log = Path(found["log"])
        if log.is_relative_to(folders.work):
            log = log.relative_to(folders.work)
        seconds, words = found["seconds"], found["command"]
        command = Command(step=method, kind="realign", command=words, seconds=seconds, log=log.as_posix())
        lines.append(json.dumps(command.model_dump(), ensure_ascii=False) + "\n")
    write_text(folders.work / "commands.jsonl", "".join(lines))


def study_of(
    inputs: Inputs, rows: Sequence[Row], kept: Candidate, verdict: Verdict, found: Iterable[Readings]
) -> Study:
    """The study that the report shows."""
    unjudged = sum(one.unjudged for readings in found for one in readings.harmful)
    made: dict[str, Any] = {"method": kept.method, "subspace": "models/masks" if kept.method == "masks" else None}
    models = [
        Model(id=row.model, label=row.model, group=GROUP, role=ROLES[row.model], **(made if row is rows[-1] else {}))
        for row in rows
    ]
    trainings = [
        Training(id=method, label=LABELS[method], folder=f"models/{method}", stage="safety_distill", seed=inputs.seed)
        for method in inputs.methods
    ]
    return Study(
        title=f"Repair of {inputs.adapter.name}",
        config=inputs.model_dump(mode="json"),
        versions=versions(),
        seeds=[inputs.seed],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=models,
        trainings=trainings,
        tables=["main", "choice"],
        groups={GROUP: inputs.adapter.name},
        summary=verdict.sentence,
        judging=Judging(model=inputs.judge, unjudged=unjudged),
    )


def main_table(rows: Sequence[Row], models: Sequence[Model]) -> Table:
    """Before and after, as the report reads it."""
    shown = measured(rows)
    facts = [{name: getattr(model, name) for name in Described.model_fields} for model in models]
    found = [row.model_copy(update=known) for row, known in zip(rows, facts, strict=True)]
    return Table(
        name="main",
        title="Before and after",
        description="On prompts that were used for nothing else.",
        columns=[COLUMNS[name] for name in shown],
        rows=found,
    )


def choice_table(kept: Candidate, tried: Mapping[str, Cost]) -> Table:
    """What each candidate got wrong on the validation prompts."""
    costs = {"harmful": "harmful", "benign": "harmless", "skill": "skill lost", "total": "sum"}
    rows = [
        Row(
            model=name,
            label=name + (" (kept)" if name == kept.name else ""),
            group=GROUP,
            cells={key: Cell(getattr(cost, key)) for key in costs},
        )
        for name, cost in tried.items()
    ]
    return Table(
        name="choice",
        title="The choice of method and strength",
        description="On the validation prompts; what has the smallest sum is kept. Harmful: the share of prompts on "
        "which it disagrees with the aligned model, plus how much less it refuses of them. Harmless: the same, plus "
        "how much more it refuses of them. Skill lost: the share of what fine-tuning gained.",
        columns=[Column(key=key, label=label, better="lower", share=False) for key, label in costs.items()],
        rows=rows,
    )
