"""How the numbers in study.yaml were chosen: on the validation prompts, baselines with as many trials as ours.

    python examples/tinylab/tune.py RUN

First the plain fusions: each weight (and density) of `FUSIONS` is measured, not trained. Then each method is trained
at five rates on a seed that the demo does not use. Both are studies of their own, in RUN/tuning, on the models of a
demo in RUN that is done; what is done is not done again. Writes RUN/tuning/tuning.md; the winners are to be copied
into study.yaml.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from realign_plugin.lab.study import launch
from realign_plugin.lab.study.choose import score
from realign_plugin.lab.study.config.loading import load, parse
from realign_plugin.lab.study.config.study import StudyConfig

HERE = Path(__file__).parent
SEED = 10
MASK_RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
LORA_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
METHODS = {"paper": MASK_RATES, "shipped": MASK_RATES, "dpo": LORA_RATES, "sft": LORA_RATES}
FUSION_RATES = MASK_RATES
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
FUSIONS: dict[str, list[dict[str, float]]] = {
    "task_arithmetic": [{"task_weight": weight} for weight in WEIGHTS],
    "ties": [{"task_weight": weight, "ties_density": density} for weight in WEIGHTS for density in (0.2, 0.5, 0.8)],
    "dare": [{"task_weight": weight} for weight in WEIGHTS],
}


def trial_name(method: str, numbers: Iterable[float]) -> str:
    """Name of a trial: the method and what is tried."""
    return "_".join([method, *(f"{number:g}".replace(".", "p").replace("-", "m") for number in numbers)])


def settings(run: Path, part: str) -> dict[str, Any]:
    """The demo's configuration on the models that a demo made, measured on the validation prompts."""
    values = load(HERE / "study.yaml", [f"root={run}", f"seeds=[{SEED}]"]).model_dump(mode="json", exclude_unset=True)
    tuned = {name: {"adapter": str(run / "models" / name), "methods": []} for name in ("skill", "second")}
    values |= {"root": str(run / "tuning" / part), "prepare": [], "finish": [], "dataset_dir": str(run / "data")}
    values |= {"align": {"adapter": str(run / "models" / "aligned")}, "tasks": tuned}
    values["evaluate"]["metadata"] = {"prompts": str(run / "data" / "validation.json")}
    return values


def plain_fusions(run: Path) -> StudyConfig:
    """A study of all weights and densities, without training."""
    values = settings(run, "fusions")
    methods = {
        trial_name(kind, options.values()): {"kind": kind, "options": options}
        for kind, tried in FUSIONS.items()
        for options in tried
    }
    values["fusion"] = {"realign": [], "methods": methods}
    return parse(values | {"methods": {}})


def trainings(run: Path, chosen: dict[str, dict[str, float]]) -> StudyConfig:
    """A study of all rates, with the chosen weights."""
    values = settings(run, "rates")
    base = {
        name: {k: v for k, v in values["methods"][name].items() if k != "label"} | {"seeds": [SEED]}
        for name in METHODS
    }
    from realign_plugin.lab.study.config.catalogue import METHODS as KNOWN

    methods = {}
    for name, rates in METHODS.items():
        for rate in rates:
            train = KNOWN[name].get("train", {}) | base[name].get("train", {}) | {"learning_rate": rate}
            how: dict[str, Any] = {"kind": KNOWN[name]["kind"], "train": train}
            how |= {"masks": ["soft" if name == "paper" else "binary"]} if name in ("paper", "shipped") else {}
            methods[trial_name(name, [rate])] = how
    fused = {
        trial_name(kind, [rate]): {"kind": kind, "options": chosen[kind], "train": {"learning_rate": rate}}
        for kind in FUSIONS
        for rate in FUSION_RATES
    }
    values["tasks"]["skill"]["methods"] = list(methods)
    fusion = {"realign": ["shipped"], "methods": fused, "pairs": values["fusion"]["pairs"]}
    return parse(values | {"methods": methods | {"shipped": {"seeds": [SEED]}}, "fusion": fusion})


def measured(config: StudyConfig) -> dict[str, dict[str, float]]:
    """Run a study; the rates of each model by heading."""
    plan = launch.build(config, Path.cwd())
    launch.start(plan, ["main"], ["--cores", "2"])
    found = json.loads((plan.folder / "tables" / "main.json").read_text(encoding="utf-8"))
    return {
        row["model"]: {column["label"]: row["cells"][column["key"]]["value"] for column in found["columns"]}
        for row in found["rows"]
    }


def fusion_score(row: dict[str, float]) -> tuple[float, float]:
    """How good a plain fusion is: the worse of its two skills, then its instructions."""
    return min(row["skill"], row["second skill"]), row["instructions"]


def training_score(config: StudyConfig, row: dict[str, float], fused: bool) -> tuple[float, float]:
    """The study's own rule; the second skill counts only where it was to be learnt."""
    asked = [section.column() for section in config.evaluate.columns]
    columns = [column for column in asked if fused or column.label != "second skill"]
    return score({column.key: row[column.label] for column in columns}, columns)


def table(head: str, rows: list[tuple[str, dict[str, float], bool]]) -> Iterator[str]:
    """Markdown lines."""
    names = list(rows[0][1])
    yield f"| {head} | " + " | ".join(names) + " | best |"
    yield "|---" * (len(names) + 2) + "|"
    for name, row, best in rows:
        yield f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in names) + f" | {'yes' if best else ''} |"
    yield ""


def main() -> None:
    """Measure, train, and write the tables."""
    run = Path(sys.argv[1])
    rows = measured(plain_fusions(run))
    lines, chosen, shown = ["## Plain fusions", ""], {}, []
    for kind, tried in FUSIONS.items():
        names = [f"fused-{trial_name(kind, options.values())}" for options in tried]
        best = max(names, key=lambda name: fusion_score(rows[name]))
        chosen[kind] = tried[names.index(best)]
        shown += [(name, rows[name], name == best) for name in names]
    lines += table("fusion", shown)
    config, shown = trainings(run, chosen), []
    rows = measured(config)
    for name, rates in [*METHODS.items(), *((kind, FUSION_RATES) for kind in FUSIONS)]:
        fused, trials = name in FUSIONS, [trial_name(name, [rate]) for rate in rates]
        found = {
            trial: next(
                row for model, row in rows.items() if model.startswith(("fused-" if fused else "skill-") + f"{trial}-")
            )
            for trial in trials
        }
        best = max(trials, key=lambda trial: training_score(config, found[trial], fused))
        shown += [(trial, found[trial], trial == best) for trial in trials]
    lines += table("method and learning rate", shown)
    (run / "tuning" / "tuning.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
