"""Runs settings.py's rows on one model, side by side, and measures each; what is done is not done again.

    python examples/qwen/trial.py MODEL DATA OUT --seeds 0,1,2 --methods ""         realign repair, and its data
    python examples/qwen/bench.py run MODEL DATA OUT --seeds 0,1,2 --workers 6
    python examples/qwen/bench.py table MODEL DATA OUT                              the rows that are done

MODEL, DATA and OUT as in trial.py. Every training is stock ``llamafactory-cli train``. Settings are compared on 150
harmful prompts of PKU, our borderline prompts that no training used, and 100 rows of the skill; those marked ``test``
are also measured on trial.py's prompts.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import trial
import typer
from repairs import ENDS, Bench
from settings import STARTS, TUNING, settings

app = typer.Typer(add_completion=False)
Model = Annotated[Path, typer.Argument(help="The aligned model's folder.")]
Data = Annotated[Path, typer.Argument(help="Folder of the public data sets.")]
Out = Annotated[Path, typer.Argument(help="The trial's folder.")]
Seeds = Annotated[str, typer.Option(help="Seeds of trial.py, with commas.")]


def jobs(seeds: Sequence[int], starts: set[str]) -> dict[str, list[str]]:
    """Names of all jobs in their order, with the jobs that have to be finished before."""
    found: dict[str, list[str]] = {}
    for start in STARTS:
        if start in starts:
            found |= {f"task-{task}": [] for task in STARTS[start].tasks}
            found |= {f"ends-{start}": [f"task-{task}" for task in STARTS[start].tasks]}
    tests = {"test-aligned": ["ends-mixture"], "test-fine-tuned": ["ends-mixture"]}
    for name, one in settings(seeds).items():
        if one.start in starts:
            needs = [f"ends-{one.start}"]
            needs += [f"row-{other}" for other, tuned in TUNING.items() if one.best and tuned.side == one.side]
            needs += [f"task-{other}" if other in STARTS else f"row-{other}" for other in one.needs]
            found[f"row-{name}"] = needs
            if one.test:
                tests[f"test-{name}"] = [f"row-{name}", "test-aligned", "test-fine-tuned"]
    return found | tests


@app.command(hidden=True)
def job(model: Model, data: Data, out: Out, name: str, seeds: str, workers: int) -> None:
    """Run one job."""
    bench = Bench(model, data, out)
    import llamafactory.train.tuner  # noqa: F401  (slow: while others work)

    kind, _, what = name.partition("-")
    rows = settings([int(seed) for seed in seeds.split(",")])
    with slot(bench.folder / "slots", workers):
        match kind:
            case "task":
                bench.fine_tune(what)
                (bench.folder / "results").mkdir(exist_ok=True)
                (bench.folder / "results" / f"{name}.json").write_text("{}", encoding="utf-8")
            case "ends":
                bench.validate(f"{name}-aligned", what, ENDS[0], {})
                bench.validate(name, what, ENDS[1], {})
            case "row":
                bench.make(what, rows[what])
            case "test":
                bench.test(name, "mixture", what)


@contextmanager
def slot(folder: Path, workers: int) -> Iterator[None]:
    """One of as many places as there are workers."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [open(folder / str(number), "w") for number in range(workers)]  # noqa: SIM115
    while True:
        for file in files:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield
            return
        time.sleep(0.1)


@app.command()
def run(
    model: Model,
    data: Data,
    out: Out,
    seeds: Seeds = "0",
    starts: Annotated[str, typer.Option(help="Fine-tuned models, with commas.")] = ",".join(STARTS),
    workers: Annotated[int, typer.Option(help="Jobs at a time.")] = 1,
    seconds: Annotated[float, typer.Option(help="Start no job after so many.")] = 1e9,
) -> None:
    """Run all jobs."""
    bench, begun = Bench(model, data, out), time.monotonic()
    (bench.folder / "logs").mkdir(parents=True, exist_ok=True)
    trial.prompts(data, out)
    chosen = jobs([int(seed) for seed in seeds.split(",")], set(starts.split(",")))
    todo = {name: needs for name, needs in chosen.items() if not bench.done(name)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    lost: set[str] = set()
    while running or todo:
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                lost |= set() if bench.done(name) else {name}
                said = "done" if bench.done(name) else f"failed, see {bench.folder / 'logs' / name}.log"
                typer.echo(f"{time.monotonic() - begun:6.0f} s  {name}: {said}")
        late = time.monotonic() - begun > seconds
        todo = {} if late else {name: needs for name, needs in todo.items() if not lost & set(needs)}
        for name, needs in list(todo.items()):
            if len(running) < (workers + 2 if workers > 1 else 1) and all(map(bench.done, needs)):
                del todo[name]
                with open(bench.folder / "logs" / f"{name}.log", "w", encoding="utf-8") as log:
                    words = [
                        sys.executable,
                        __file__,
                        "job",
                        str(model),
                        str(data),
                        str(out),
                        name,
                        seeds,
                        str(workers),
                    ]
                    running[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        time.sleep(0.2)
    if lost:
        raise typer.Exit(1)


@app.command()
def table(model: Model, data: Data, out: Out) -> None:
    """Print the rows that are done."""
    bench = Bench(model, data, out)
    heads = ("refuses harmful", "refuses harmless", "agreement, harmful", "agreement, harmless", "KL of the skill")
    for kind in ("ends", "row", "test"):
        files = sorted((bench.folder / "results").glob(f"{kind}-*.json"))
        if files:
            last = "GSM8K solved" if kind == "test" else "cost"
            typer.echo(f"| {kind} | {' | '.join((*heads, last))} |\n{'|---' * (len(heads) + 2)}|")
        for file in files:
            found = json.loads(file.read_text(encoding="utf-8"))
            shown = [cell(found, name) for name in ("refusal_rate", "over_refusal")]
            shown += [cell(found, f"agreement_{name}") for name in ("harmful", "benign")]
            shown.append(f"{found['skill_divergence']:.4f}")
            shown.append(share(found["solved"]) if kind == "test" else f"{found['cost']['total']:.2f}")
            typer.echo(f"| {file.stem.partition('-')[2]} | {' | '.join(shown)} |")


def cell(found: dict[str, Any], name: str) -> str:
    """A rate with its interval."""
    return share({"value": found[name], "low": found[f"{name}_low"], "high": found[f"{name}_high"]})


def share(found: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    app()
