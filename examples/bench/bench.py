"""Runs settings.py's rows on one model, side by side, and measures each; what is done is not done again.

    python examples/demo/demo.py MODEL OUT                                           once: the models, and their data
    python examples/bench/bench.py run smollm2 MODEL DATA OUT
    python examples/bench/bench.py table smollm2 MODEL DATA OUT                      the rows that are done

    python examples/qwen/trial.py MODEL DATA OUT --seeds 0,1,2 --methods ""         realign repair, and its data
    python examples/bench/bench.py run qwen MODEL DATA OUT --seeds 0,1,2 --workers 6

DATA as in trial.py. Every training is stock ``llamafactory-cli train``. Settings (seed 0) are compared on prompts that
they are not trained on (``World.validation``); those marked ``test`` are also measured on trial.py's prompts.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import bench_paths  # noqa: F401
import torch
import typer
from repairs import ENDS, Bench
from settings import Plan
from worlds import WORLDS

app = typer.Typer(add_completion=False)
Name = Annotated[str, typer.Argument(help=f"Of the world: {' or '.join(WORLDS)}.")]
Model = Annotated[Path, typer.Argument(help="The model's folder.")]
Data = Annotated[Path, typer.Argument(help="Folder of the public data sets.")]
Out = Annotated[Path, typer.Argument(help="Folder of trial.py's or demo.py's run.")]
CONTEXT: Final[Any] = get_context("spawn" if torch.cuda.is_available() else "fork")
"""A forked process cannot use a GPU that its parent has looked for."""


def jobs(
    plan: Plan, seeds: Sequence[int], starts: set[str], repaired: Sequence[str] = (), tuned: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Names of all jobs in their order, with the jobs that have to be finished before.

    Args:
        plan: The world's.
        seeds: Of the rows.
        starts: Fine-tuned models.
        repaired: Models of finished repairs.
        tuned: Settings of which a side's best is chosen; all if there are none.
    """
    found: dict[str, list[str]] = {}
    for name, start in plan.starts.items():
        if name in starts:
            found |= {f"task-{task}": [] for task in start.tasks}
            kinds = [f"test-{end}-{name}" for end in ENDS] if name in plan.others else [f"ends-{name}"]
            found |= {kind: [f"task-{task}" for task in start.tasks] for kind in kinds}
    tested = [f"test-{end}" for end in ENDS]
    found |= {test: [f"ends-{plan.main}"] for test in tested} if plan.main in starts else {}
    if plan.main in starts:
        found |= {f"test-{name}": tested for name in repaired}
    others = {start: [f"test-{end}-{start}" for end in ENDS] for start in plan.others}
    trials = {name: trial for name, trial in plan.trials().items() if not tuned or name in tuned}
    for name, one in plan.settings(seeds).items():
        if one.start in starts:
            needs = (
                [f"ends-{one.start}"] if one.compared else [f"task-{task}" for task in plan.starts[one.start].tasks]
            )
            needs += [f"row-{other}" for other, trial in trials.items() if one.best and trial.side == one.side]
            tasks = {task for start in plan.starts.values() for task in start.tasks}
            needs += [f"task-{other}" if other in tasks else f"row-{other}" for other in one.needs]
            found[f"row-{name}"] = needs
            if one.test:
                found[f"test-{name}"] = [f"row-{name}", *others.get(one.start, tested)]
    ends = [f"attack-{end}" for end in ENDS]
    if plan.main in starts:
        found |= {attack: [f"ends-{plan.main}"] for attack in ends}
        found |= {f"attack-{name}": [f"row-{name}", *ends] for name in plan.attacked(seeds[0])}
        found |= {f"attack-{name}": ends for name in repaired[:1]}
    return found


def measured(plan: Plan, what: str, seeds: Sequence[int]) -> tuple[str, str]:
    """The start, and the model among its own, that a test is of."""
    ends = {f"{end}-{start}": (start, end) for start in plan.others for end in ENDS}
    setting = plan.settings(seeds).get(what)
    return ends.get(what) or ((setting.start if setting else plan.main), what)


def needed(found: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Some jobs in their order, each after all that have to be finished before it."""
    kept: dict[str, Sequence[str]] = {}
    for name in names:
        if name not in kept:
            kept |= needed(found, found[name]) | {name: found[name]}
    return kept


def job(bench: Bench, name: str, seeds: Sequence[int], workers: int) -> None:
    """Run one job in this process, with its output in a file."""
    log = os.open(bench.folder / "logs" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    kind, _, what = name.partition("-")
    with slot(bench.folder / "slots", workers):
        match kind:
            case "task":
                bench.fine_tune(what)
                bench.finish(name)
            case "ends":
                bench.validate(f"{name}-aligned", what, ENDS[0], {})
                bench.validate(name, what, ENDS[1], {})
            case "row":
                bench.make(what, bench.world.plan.settings(seeds)[what])
            case "test":
                bench.test(name, *measured(bench.world.plan, what, seeds))
            case "attack":
                bench.attack(name, what)


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
    world: Name,
    model: Model,
    data: Data,
    out: Out,
    seeds: Annotated[str, typer.Option(help="Seeds of trial.py, with commas.")] = "0",
    repair: Annotated[int | None, typer.Option(help="Seed of trial.py whose data all seeds use.")] = None,
    starts: Annotated[str, typer.Option(help="Fine-tuned models, with commas; all if not given.")] = "",
    rows: Annotated[str, typer.Option(help="Rows to run, in this order, with commas; by default all.")] = "",
    tuned: Annotated[str, typer.Option(help="Settings to choose a side's options from; by default all.")] = "",
    workers: Annotated[int, typer.Option(help="Jobs at a time.")] = 1,
    seconds: Annotated[float, typer.Option(help="Start no job after so many.")] = 1e9,
) -> None:
    """Run all jobs."""
    bench, begun = Bench(WORLDS[world](model.absolute(), data.absolute(), out.absolute(), repair)), time.monotonic()
    (bench.folder / "logs").mkdir(parents=True, exist_ok=True)
    bench.world.prepare()
    numbers, plan = [int(seed) for seed in seeds.split(",")], bench.world.plan
    kept, few = (set(given.split(",")) if given else set() for given in (starts, tuned))
    chosen = jobs(plan, numbers, kept or set(plan.starts), bench.repaired(numbers), sorted(few))
    for row in few - set(plan.trials()):
        raise typer.BadParameter(f"{row} is none of the settings that are compared", param_hint="--tuned")
    for row in rows.split(",") if rows else []:
        if not {f"row-{row}", f"test-{row}"} & set(chosen):
            raise typer.BadParameter(
                f"{row} is not a row of these starts and seeds (settings.py)", param_hint="--rows"
            )
    named = (
        [f"{kind}-{row}" for row in rows.split(",") for kind in ("row", "test", "attack")] if rows else list(chosen)
    )
    wanted = needed(chosen, [name for name in named if name in chosen])
    todo = {name: needs for name, needs in wanted.items() if not bench.done(name)}
    import llamafactory.train.tuner  # noqa: F401  (slow: once, for all forked jobs)

    running: dict[str, Any] = {}
    lost: set[str] = set()
    while running or todo:
        for name, process in list(running.items()):
            if not process.is_alive():
                del running[name]
                lost |= set() if bench.done(name) else {name}
                said = "done" if bench.done(name) else f"failed, see {bench.folder / 'logs' / name}.log"
                typer.echo(f"{time.monotonic() - begun:6.0f} s  {name}: {said}")
        late = time.monotonic() - begun > seconds
        todo = {} if late else {name: needs for name, needs in todo.items() if not lost & set(needs)}
        for name, needs in list(todo.items()):
            if len(running) < (workers + 2 if workers > 1 else 1) and all(map(bench.done, needs)):
                del todo[name]
                running[name] = CONTEXT.Process(target=job, args=(bench, name, numbers, workers))
                running[name].start()
        time.sleep(0.2)
    if lost:
        raise typer.Exit(1)


@app.command()
def table(world: Name, model: Model, data: Data, out: Out) -> None:
    """Print the rows that are done."""
    bench = Bench(WORLDS[world](model, data, out))
    heads = ("refuses harmful", "refuses harmless", "agreement, harmful", "agreement, harmless", "KL of the skill")
    for kind in ("ends", "row", "test"):
        files = sorted((bench.folder / "results").glob(f"{kind}-*.json"))
        if files:
            last = ("skill solved",) if kind == "test" else ("skill solved", "cost")
            typer.echo(f"| {kind} | {' | '.join((*heads, *last))} |\n{'|---' * (len(heads) + len(last) + 1)}|")
        for file in files:
            found = bench.read(file.stem)
            if "refusal_rate" not in found:
                continue
            shown = [cell(found, name) for name in ("refusal_rate", "over_refusal")]
            shown += [cell(found, f"agreement_{name}") for name in ("harmful", "benign")]
            shown += [f"{found['skill_divergence']:.4f}", share(found["solved"]) if found.get("solved") else ""]
            shown += [f"{found['cost']['total']:.2f}"] if "cost" in found else []
            typer.echo(f"| {file.stem.partition('-')[2]} | {' | '.join(shown)} |")
    for number, file in enumerate(sorted((bench.folder / "results").glob("attack-*.json"))):
        found = bench.read(file.stem)
        if not number:
            heads = tuple(f"{attack}: {what}" for attack in found for what in ("refuses", "agreement"))
            typer.echo(f"| attack | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
        shown = [share(rate) for rates in found.values() for rate in rates.values()]
        typer.echo(f"| {file.stem.partition('-')[2]} | {' | '.join(shown)} |")


def cell(found: dict[str, Any], name: str) -> str:
    """A rate with its interval."""
    return share({"value": found[name], "low": found[f"{name}_low"], "high": found[f"{name}_high"]})


def share(found: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    app()
