"""Takes the best of several strengths, by the results on the validation prompts.

python -m realign_plugin.lab.study.choose PLAN ROW
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from realign_plugin.errors import UserError, check_choice
from realign_plugin.evaluation.result_files import Results
from realign_plugin.files import write_json
from realign_plugin.lab.records import Choice, Column, Tried
from realign_plugin.lab.study.planning.measuring import CHOOSING
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.tables import columns_asked, columns_of, results_of


def score(cells: Mapping[str, float], columns: Sequence[Column]) -> tuple[float, float]:
    """How good a model is on all axes at once: its worst rate first, then the mean of all. Higher is better."""
    good = [
        cells[c.key] if c.better == "higher" else 1.0 - cells[c.key]
        for c in columns
        if c.better is not None and c.key in cells
    ]
    return min(good), sum(good) / len(good)


def _rates(results: Results, columns: Sequence[Column]) -> dict[str, float | None]:
    return {column.key: results.cell(column.task, column.metric).value for column in columns}


def _columns(plan: Plan, row: str, found: Mapping[str, Results]) -> list[Column]:
    """The columns that a choice depends on."""
    chosen = plan.config["evaluate"]["choose"]
    columns = columns_asked(plan) or columns_of(found.values(), chosen["tasks"] or plan.models[row].tasks)
    if chosen["columns"] is None:
        return [c for c in columns if c.better is not None and c.axis != "other" and c.metric != "preference_score"]
    for label in chosen["columns"]:
        check_choice("evaluate.choose.columns", label, [c.label for c in columns])
    return [c for c in columns if c.label in chosen["columns"] and c.better is not None]


def choose(plan: Plan, row: str) -> Choice:
    """The best strength of a row.

    Raises:
        UserError: If a strength has no results, none has a rate with a known direction, or one lacks a rate that
            another has: they could not be compared.
    """
    found: dict[str, Results] = {}
    for name in plan.choices[row]:
        results = results_of(plan.folder / CHOOSING / name)
        if results is None:
            raise UserError(f"{row}: {name} has no results in {CHOOSING}, expected them; run the study again")
        found[name] = results
    columns = _columns(plan, row, found)
    values = {name: _rates(results, columns) for name, results in found.items()}
    used = [c for c in columns if any(rates[c.key] is not None for rates in values.values())]
    for column in used:
        for name, rates in values.items():
            value = rates[column.key]
            if value is None or not 0.0 <= value <= 1.0:
                raise UserError(
                    f"{row}: {column.label} of {name} is {value}, expected a rate as the others have; judge its "
                    "samples, or leave the column out of evaluate.choose.columns"
                )
    if not used:
        raise UserError(f"{row}: no column of {CHOOSING} has a known direction, expected rates; see evaluate.choose")
    scores = {name: score({k: float(v or 0.0) for k, v in rates.items()}, used) for name, rates in values.items()}
    best = max(scores, key=scores.__getitem__)
    tried = {
        f"{plan.choices[row][name]:g}": Tried(score=scores[name], rates={c.key: values[name][c.key] for c in used})
        for name in found
    }
    return Choice(strength=plan.choices[row][best], model=best, tried=tried)


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose, write ``choices/ROW.json``, and let ``models/ROW`` point to the best model."""
    path, row = arguments or sys.argv[1:]
    plan = Plan.load(Path(path))
    best = choose(plan, row)
    link = plan.folder / "models" / row
    work = link.with_name(f".{row}.link")
    work.unlink(missing_ok=True)
    work.symlink_to(best.model, target_is_directory=True)
    os.replace(work, link)
    write_json(plan.folder / "choices" / f"{row}.json", best.model_dump())
    print(f"{row}: strength {best.strength:g}")


if __name__ == "__main__":
    main()
