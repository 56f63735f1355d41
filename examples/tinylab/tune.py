"""How the numbers in train/ were chosen: on the validation prompts, with as many trials for the rivals as for ours.

    python tune.py RUN

First the plain fusions: each weight (and density) of `FUSIONS` is measured, not trained. Then each method is trained
at five rates on the seeds of `SEEDS`, which the demo does not use; two trainings run at a time. What is done is
not done again. Writes RUN/tuning/tuning.md; the winners are to be copied into train/.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SEEDS = (10,)
MASK_RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
LORA_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
RATES = {
    "realigned_paper": MASK_RATES,
    "realigned_shipped": MASK_RATES,
    "lora_dpo": LORA_RATES,
    "lora_sft": LORA_RATES,
    "fused_task_arithmetic": MASK_RATES,
    "fused_ties": MASK_RATES,
    "fused_dare": MASK_RATES,
}
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
FUSIONS = {
    "fused_task_arithmetic": [{"task_weight": weight} for weight in WEIGHTS],
    "fused_ties": [
        {"task_weight": weight, "ties_density": density} for weight in WEIGHTS for density in (0.2, 0.5, 0.8)
    ],
    "fused_dare": [{"task_weight": weight} for weight in WEIGHTS],
}
SHOWN = (
    "harmful_rate",
    "over_refusal",
    "instruction_accuracy",
    "skill_accuracy",
    "second_skill_accuracy",
    "gibberish_rate",
)
Job = tuple[str, Path, dict[str, Any], Path]
"""Method, run, what differs from its recipe, and the file of its result."""


def fusion_score(row: dict[str, Any]) -> tuple[float, float]:
    """How good a plain fusion is: the worse of its two skills, then its instructions."""
    return min(row["skill_accuracy"], row["second_skill_accuracy"]), row["instruction_accuracy"]


def recipe_of(method: str, run: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe of train/ on this run's models and data."""
    recipe: dict[str, Any] = yaml.safe_load((HERE / "train" / f"{method}.yaml").read_text(encoding="utf-8"))
    for key in ("model_name_or_path", "dataset_dir", "adapter_name_or_path", "aligned_adapter"):
        if key in recipe:
            recipe[key] = str(run / Path(recipe[key]).name)
    for key in ("ref_model", "ref_model_adapters"):
        if key in recipe:
            recipe[key] = str(run / Path(recipe[key]).name)
    if "task_adapters" in recipe:
        recipe["task_adapters"] = [str(run / Path(path).name) for path in recipe["task_adapters"]]
    return recipe | changes


def measured(run: Path, update: dict[str, Any]) -> dict[str, Any]:
    """Rates on the validation prompts."""
    from measure import Bench

    return Bench(run).rates(update, "validation")


def fusion_trial(job: Job) -> None:
    """Measure one plain fusion."""
    from fuse import plain_fusion
    from measure import SCALING

    method, run, changes, result = job
    recipe = recipe_of(method, run, changes)
    subspace = plain_fusion(recipe, Path(recipe["aligned_adapter"]), [Path(task) for task in recipe["task_adapters"]])
    update = {module: SCALING * pair["B"] @ pair["A"] for module, pair in subspace.effective().items()}
    result.write_text(json.dumps(measured(run, update)), encoding="utf-8")


def trial(job: Job) -> None:
    """Train as `llamafactory-cli train` does, export, and measure."""
    from llamafactory.train.tuner import run_exp
    from measure import SCALING
    from models import read_update

    from realign_plugin import SafetySubspace

    method, run, changes, result = job
    folder = result.with_suffix("")
    with open(result.with_suffix(".log"), "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        run_exp(recipe_of(method, run, changes) | {"output_dir": str(folder), "save_strategy": "no"})
        adapter = folder
        if method not in ("lora_dpo", "lora_sft"):
            adapter = SafetySubspace.load(folder).to_lora(folder / "lora")
        result.write_text(json.dumps(measured(run, read_update(adapter, SCALING))), encoding="utf-8")


def run_jobs(function: Callable[[Job], None], jobs: list[Job]) -> None:
    """Two at a time, each in a process of its own."""
    todo = [job for job in jobs if not job[3].exists()]
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for done, _ in enumerate(pool.imap_unordered(function, todo, chunksize=1), 1):
            print(f"* {done} of {len(todo)} trials", flush=True)


def table(head: str, rows: list[tuple[str, dict[str, Any], bool]]) -> Iterator[str]:
    """Markdown lines."""
    yield f"| {head} | " + " | ".join(SHOWN) + " | best |"
    yield "|---" * (head.count("|") + len(SHOWN) + 2) + "|"
    for name, row, best in rows:
        yield f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in SHOWN) + f" | {'yes' if best else ''} |"
    yield ""


def main() -> None:
    """Train, measure, and write the tables."""
    # Imported once, for all trials that are forked off.
    import llamafactory.train.dpo
    import llamafactory.train.sft
    import llamafactory.train.tuner  # noqa: F401
    from fuse import plain_fusion  # noqa: F401
    from measure import score

    run = Path(sys.argv[1])
    out = run / "tuning"
    out.mkdir(exist_ok=True)

    def name_of(method: str, changes: dict[str, Any]) -> Path:
        return out / ("-".join([method, *(f"{value:g}" for value in changes.values())]) + ".json")

    def read(path: Path) -> dict[str, Any]:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    run_jobs(
        fusion_trial, [(m, run, changes, name_of(m, changes)) for m, tried in FUSIONS.items() for changes in tried]
    )
    lines, chosen, rows = ["## Plain fusions", ""], {}, []
    for method, tried in FUSIONS.items():
        found = [(changes, read(name_of(method, changes))) for changes in tried]
        chosen[method] = max(found, key=lambda pair: fusion_score(pair[1]))[0]
        rows += [
            (f"{method} | {c['task_weight']:g} | {c.get('ties_density', '')}", row, c is chosen[method])
            for c, row in found
        ]
    lines += table("fusion | weight | density", rows)

    jobs = []
    for seed, (method, rates) in itertools.product(SEEDS, RATES.items()):
        for rate in rates:
            changes = {"learning_rate": rate, "seed": seed}
            jobs.append((method, run, chosen.get(method, {}) | changes, name_of(f"trained-{method}", changes)))
    run_jobs(trial, jobs)
    lines, rows = [*lines, "## Learning rates", ""], []
    for method, rates in RATES.items():
        found = {
            rate: [read(name_of(f"trained-{method}", {"rate": rate, "seed": seed})) for seed in SEEDS]
            for rate in rates
        }
        best = max(rates, key=lambda rate: min(score(row, method in FUSIONS) for row in found[rate]))
        rows += [
            (f"{method} | {rate:g} | {seed}", row, rate == best)
            for rate in rates
            for seed, row in zip(SEEDS, found[rate], strict=True)
        ]
    lines += table("method | learning rate | seed", rows)
    (out / "tuning.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
