"""Starts a study: checks, plan, snakemake, tables, report."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.records import Command, Failure
from realign_plugin.lab.study.checks import check, check_values
from realign_plugin.lab.study.config.loading import load
from realign_plugin.lab.study.config.study import StudyConfig
from realign_plugin.lab.study.describing import describe
from realign_plugin.lab.study.display import show_table
from realign_plugin.lab.study.planning.ablations import add_ablations
from realign_plugin.lab.study.planning.builder import Builder
from realign_plugin.lab.study.planning.fusions import fusions
from realign_plugin.lab.study.planning.measuring import PLAN
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.realignment import align, tasks
from realign_plugin.lab.study.planning.trainings import own_steps
from realign_plugin.lab.study.processors import Processors
from realign_plugin.lab.study.run import tail
from realign_plugin.lab.study.stopping import run_group
from realign_plugin.text_files import checked, read_json, read_text

ALONE: Final = Processors()
SNAKEFILE: Final = Path(__file__).with_name("Snakefile")
PROFILES: Final = Path(__file__).with_name("profiles")


def make_plan(path: Path, overrides: Sequence[str], processors: Processors = ALONE) -> Plan:
    """Read and check a configuration, and plan the study.

    Raises:
        UserError: For the first mistake.
    """
    config = load(path, overrides)
    plan = build(config, Path.cwd(), processors)
    check_root(plan)
    check(config)
    check_values(plan)
    return plan


def check_root(plan: Plan) -> None:
    """Refuse a place in which snakemake would look for wildcards.

    Raises:
        UserError: If the path of the study's folder has braces.
    """
    if {"{", "}"} & set(str(plan.folder)):
        raise UserError(
            f"root: {plan.folder} has braces, which snakemake takes for a wildcard, expected none; rename the folder"
        )


def build(config: StudyConfig, cwd: Path, processors: Processors = ALONE) -> Plan:
    """The plan of a study.

    Raises:
        UserError: If the configuration contradicts itself, or a method lacks what it needs.
    """
    builder = Builder(config, cwd, processors.share(config.machine))
    plan = builder.plan
    builder.before = own_steps(builder, config.prepare, "prepare", ())
    for name, dataset in config.data.items():
        if dataset.kind != "on_policy":  # which waits for the fine-tuned models
            builder.datasets.add(name, dataset)
    align(builder)
    tasks(builder)
    if config.fusion is not None:
        fusions(builder, config.fusion)
    builder.measuring.tables()
    main = plan.targets["main"]
    main += own_steps(builder, config.finish, "finish", tuple(main))
    add_ablations(builder)
    plan.targets["all"] = list(dict.fromkeys(name for names in plan.targets.values() for name in names))
    return plan


def profile_folder(profile: str) -> Path:
    """A profile of ours by name, or a folder of the user's.

    Raises:
        UserError: If the profile does not exist, or names a rule as earlier versions did: snakemake would ignore it.
    """
    for folder in (Path(profile), PROFILES / profile):
        file = folder / "config.yaml"
        if file.is_file():
            lines = read_text(file, "--profile", "snakemake's profile").splitlines()
            if any(line.lstrip(" -").startswith(("rival:", "rival=")) for line in lines):
                raise UserError(f"--profile: {file} names the rule 'rival', expected 'baseline'; rename it")
            return folder
    check_choice("--profile", profile, sorted(path.name for path in PROFILES.iterdir()))
    raise UserError(f"--profile: {profile} holds no config.yaml, expected snakemake's profile; check the path")


def write_commands(plan: Plan) -> None:
    """Write ``commands.jsonl``: what has run, in the order of the plan, with its time and log."""
    lines = []
    for step in plan.wanted(["all"]):
        known = plan.done(step.name)
        if known is not None:
            entry = Command(
                step=step.name, kind=step.kind, seconds=known.seconds, log=known.log, command="\n".join(known.commands)
            )
            lines.append(json.dumps(entry.model_dump(), ensure_ascii=False))
    write_text(plan.folder / "commands.jsonl", "\n".join(lines) + "\n")


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Hold the study's folder.

    Raises:
        UserError: If another process works on it, it cannot be written, or it holds something other than a study.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(plan.folder / ".lock")
    try:
        foreign = [name for name in ("models", "results", "steps") if (plan.folder / name).exists()]
        if foreign and not (plan.folder / PLAN).exists():
            raise UserError(
                f"root: {plan.root} holds {foreign[0]}, but no study; give a folder that is new, or a study's"
            )
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"root: another process works on {plan.root}, expected none; wait for it, or take another root"
        ) from error
    except OSError as error:
        raise UserError(
            f"root: {plan.root} cannot be written ({error.strerror}), expected a writable folder with room"
        ) from error
    try:
        yield
    finally:
        lock.release()


def start(plan: Plan, targets: Sequence[str], options: Sequence[str], again: Sequence[str] = ()) -> None:
    """Bring targets up to date.

    Raises:
        UserError: If a step fails: with its log and how that ends.
        Stopped: If it is asked to stop.
    """
    check_again(plan, targets, again)
    with alone(plan):
        for name in again:
            plan.forget_whole(name)
        todo = prepare(plan, targets)
        plan.count(todo)
        try:
            code = snakemake(plan, targets, options) if todo else 0
        finally:
            write_commands(plan)
        if code:
            raise UserError(failure(plan, code))


def check_again(plan: Plan, targets: Sequence[str], again: Sequence[str]) -> None:
    """Refuse steps that the targets do not have.

    Raises:
        UserError: With the closest names.
    """
    names = [step.name for step in plan.wanted(targets)]
    for name in again:
        if name not in names:
            check_choice("--again", name, difflib.get_close_matches(name, names, n=4) or names[:4])


def prepare(plan: Plan, targets: Sequence[str]) -> int:
    """Write ``plan.json`` and ``study.json``, and forget the markers of steps that have to run again.

    Returns:
        How many steps have to run.

    Raises:
        UserError: If the files cannot be written.
    """
    try:
        plan.save(plan.folder / PLAN)
        write_json(plan.folder / "study.json", describe(plan).model_dump())
        todo = plan.stale(targets)
        for step, _ in todo:
            plan.forget(step.name)
        for file in (plan.folder / "steps").glob("*.failed.json"):
            file.unlink()
        plan.todo.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"root: {plan.root} cannot be written ({error.strerror}), expected room for a study"
        ) from error
    return len(todo)


def plan_only(plan: Plan) -> None:
    """Write the plan for those who run snakemake themselves."""
    with alone(plan):
        prepare(plan, ["all"])


def snakemake(plan: Plan, targets: Sequence[str], options: Sequence[str]) -> int:
    """Run the workflow; its exit code. snakemake's own messages go to ``logs/snakemake.log``.

    It gets a process group of its own, and is stopped with this process: no step goes on alone. It does not lock the
    folder, as its locks outlive a process that was killed; ``alone`` and ``run.held`` do. Only file times make a
    step run again here: ``Plan.stale`` has found out what changed, which snakemake does not know of earlier studies.
    """
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(plan.folder)]
    words += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", *options]
    # Relative to the directory: snakemake reads the value as YAML, which a path with `: ` or ` #` is not.
    words += ["--config", f"plan={PLAN}", "--", *targets]
    log = plan.log("snakemake")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        return run_group(words, stderr=file)


def failure(plan: Plan, code: int) -> str:
    """One line on the steps that failed: the first with the end of its log, the others by name."""
    found = sorted((plan.folder / "steps").glob("*.failed.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        log = plan.log("snakemake")
        return f"study: snakemake ended with {code}, expected 0; {log} ends with: {' | '.join(tail(log))[-800:]}"
    first, *others = (
        checked(Failure, read_json(path, "", "why a step failed"), str(path), "run the study again") for path in found
    )
    more = f" (failed too: {', '.join(known.step for known in others)})" if others else ""
    ends = " | ".join(first.tail)[-500:]
    return f"{first.step}: {first.message}, expected it to end well; {first.log} ends with: {ends}{more}"


def finish(plan: Plan, targets: Sequence[str]) -> None:
    """Print the tables that were asked for, and write the report."""
    for name in plan.tables:
        asked = name == "main" if "all" in targets else name in targets
        if asked and (plan.folder / "tables" / f"{name}.json").exists():
            show_table(plan, name)
    from realign_plugin.lab.report import write_report

    print(f"Report: {write_report(Path(plan.root))}")
