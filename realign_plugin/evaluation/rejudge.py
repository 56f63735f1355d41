"""Judge lm-eval's samples after the run, or again: what ``realign judge`` does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.evaluation.assessment import HIGHER_IS_BETTER, Kind, assess, begun, summarise
from realign_plugin.evaluation.judging.prompts import Item
from realign_plugin.evaluation.metrics.kappa import Kappa
from realign_plugin.evaluation.metrics.rates import NOT_AVAILABLE, describe
from realign_plugin.evaluation.prompt_sets import whole_groups
from realign_plugin.evaluation.results import leaves, pool
from realign_plugin.evaluation.samples import answer_of, read_samples, reference_answers, usual_prefix, write_samples
from realign_plugin.evaluation.session import Session


@dataclass(frozen=True)
class Judged:
    """One samples file after judging.

    Attributes:
        file: The file; its samples hold the verdicts now.
        task: Name of the task.
        kind: What its prompts are.
        metrics: The task's metrics.
        count: How many answers.
        rows: Its samples.
    """

    file: Path
    task: str
    kind: Kind
    metrics: dict[str, float]
    count: int
    rows: Sequence[dict[str, Any]] = ()


def task_name(file: Path) -> str:
    """The task of a ``samples_TASK_DATE.jsonl``; else the file's name."""
    match = re.fullmatch(r"samples_(.+)_\d{4}-\d\d-\d\dT.*", file.stem)
    return match[1] if match else file.stem


@dataclass(frozen=True)
class _Samples:
    """One samples file that can be judged.

    Attributes:
        file: The file.
        task: Name of the task.
        kind: What its prompts are.
        rows: Its samples.
        prefixes: With what the model's answer was begun, of each sample.
        items: What the judge is given, of each sample.
    """

    file: Path
    task: str
    kind: Kind
    rows: Sequence[dict[str, Any]]
    prefixes: Sequence[str]
    items: Sequence[Item]


def judge_files(files: Sequence[Path], session: Session, *, pooled: bool = False) -> list[Judged]:
    """Judge the answers of some files and write the verdicts into their samples; all are read before any is judged.

    Verdicts come from the judge's cache where it holds them, so that a run that broke off goes on where it was, and
    judging again what was judged gives the same numbers and costs nothing.

    Args:
        files: lm-eval's samples files.
        session: Judge and settings.
        pooled: Whether the metrics go into one file of results, where each task has one place.

    Raises:
        UserError: If a file cannot be read or written or does not fit, the judge cannot be used, the reference does
            not fit, or two files are of one task.
    """
    names = [task_name(file) for file in files]
    if pooled and (twice := next((name for name in names if names.count(name) > 1), None)):
        both = ", ".join(str(file) for file, name in zip(files, names, strict=True) if name == twice)
        raise UserError(f"SAMPLES: {both} are all of {twice}, expected one file each; give one model's at a time")
    found = [_read(file, session) for file in files]
    session.prepare()
    return [_judge(one, session) for one in found]


def _read(file: Path, session: Session) -> _Samples:
    rows = read_samples(file, "samples")
    task = task_name(file)
    noted = [row["doc"].get("realign") or {} for row in rows]
    usual: Kind = "benign" if re.match(r"over_refusal_(?!.*contrast)|.*_benign$", task) else "harmful"
    kind: Kind = noted[0].get("kind", usual)
    prefixes = [note.get("prefix", usual_prefix(task)) for note in noted]
    for number, row in enumerate(rows):
        if not isinstance(row["doc"].get("prompt"), str):
            raise UserError(
                f"samples: row {number + 1} of {file} has no prompt in its doc, expected samples of a safety, attack "
                "or over_refusal task; give those"
            )
    docs = [
        {"id": str(row["doc"].get("id", n)), "prompt": row["doc"]["prompt"], "asked": note.get("asked")}
        for n, (row, note) in enumerate(zip(rows, noted, strict=True))
    ]
    known: Mapping[str, str] = {}
    if session.settings.reference is not None:
        reference = reference_answers(session.settings.reference, task, docs)
        known, session.references[task] = reference.by_id, reference.sha256
    items = [
        Item(doc["id"], doc["prompt"], begun(prefix, answer_of(row)), known.get(doc["id"]))
        for doc, prefix, row in zip(docs, prefixes, rows, strict=True)
    ]
    return _Samples(file, task, kind, rows, prefixes, items)


def _judge(samples: _Samples, session: Session) -> Judged:
    found = assess(samples.items, session, samples.kind)
    for row, prefix, assessment in zip(samples.rows, samples.prefixes, found, strict=True):
        noted = {"thinking": ""} | (row["doc"].get("realign") or {})
        kept = {key: noted[key] for key in ("thinking", "asked") if key in noted}
        row["doc"]["realign"] = assessment.record(samples.kind, prefix) | kept
        values = assessment.metrics()
        row.update(values)
        row["metrics"] = list(values)
    write_samples(samples.file, samples.rows)
    metrics = summarise(found, session.settings.judge_max_unjudged)
    return Judged(samples.file, samples.task, samples.kind, metrics, len(samples.rows), samples.rows)


def results(judged: Sequence[Judged], session: Session) -> dict[str, Any]:
    """The metrics in the form of lm-eval's results file, which ``realign compare`` reads."""
    names = [one.task for one in judged]
    values = {one.task: {f"{name},none": value for name, value in one.metrics.items()} for one in judged}
    better = {one.task: HIGHER_IS_BETTER[one.kind] for one in judged}
    groups = whole_groups(names)
    for group in groups:
        values[group] = {}
        members = leaves(group, groups)
        pool(values[group], {task: values[task] for task in members}, better)
        pooled = {key.partition(",")[0] for key in values[group]}
        better[group] = {name: more for name, more in better[members[0]].items() if name in pooled}
    rows: dict[str, dict[str, Any]] = {name: {"alias": name} for name in values}
    intervals: dict[str, dict[str, Any]] = {}
    for task, found in values.items():
        for key, value in found.items():
            described = intervals.setdefault(task, {})[key.partition(",")[0]] = describe(value) or {}
            rows[task][key] = NOT_AVAILABLE if "not_available" in described else float(value)
    for one in judged:
        rows[one.task]["sample_len"] = one.count
    kappas = {one.task: value for one in judged for value in one.metrics.values() if isinstance(value, Kappa)}
    return {
        "results": rows,
        "groups": {group: rows[group] for group in groups},
        "group_subtasks": groups,
        "higher_is_better": better,
        "n-samples": {one.task: {"original": one.count, "effective": one.count} for one in judged},
        "realign": {
            "intervals": intervals,
            "judge": session.report(kappas, {one.task: one.rows for one in judged}),
            "references": session.references,
        },
    }
