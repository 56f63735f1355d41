"""Runs one step of a study: its files, its commands, its marker.

python -m realign_plugin.lab.study.run PLAN STEP

An interrupted step resumes: a training from its last checkpoint, the others from the first command that is not
done. Its output goes to its log.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from realign_plugin.errors import UserError
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.records import Failure, Marker
from realign_plugin.lab.study.gpus import gpus
from realign_plugin.lab.study.planning.commands import Command, Line, Shell, text, words
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step
from realign_plugin.lab.study.resuming import go_on
from realign_plugin.text_files import read_json

TAIL: Final = 5
"""Last lines of a log that are shown when its step failed."""
LOOKED_AT: Final = 40
"""Last lines of a log among which the error is looked for."""
ERROR: Final = re.compile(r"(error: |(\w+\.)*\w*(Error|Exception): )")
KEEPERS: Final = ("prepare", "finish", "data", "on_policy")
"""Kinds of steps that handle what an earlier run left themselves."""


class StepError(Exception):
    """A step's command ended badly, or did not leave what it should.

    Attributes:
        code: Exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(plan: Plan, step: Step) -> None:
    """Run a step and write its marker.

    Raises:
        StepError: If a command ends badly.
    """
    os.chdir(plan.cwd)
    start, log = time.monotonic(), plan.log(step.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    plan.failure(step.name).unlink(missing_ok=True)
    progress = Progress(plan, step)
    begin(plan, step, progress)
    goes_on = bool(progress.done) or (step.training is not None and not progress.fresh)
    with open(log, "a" if goes_on else "w", encoding="utf-8") as output, gpus(plan, step) as chosen:
        environment = _environment(step) | chosen
        if step.together:
            _together(plan, step, progress, output, environment)
        else:
            for number, command in enumerate(step.does):
                if number not in progress.done:
                    _execute(_replacing(plan, step, command), output, environment)
                    progress.add(number)
    missing = [path for path in step.creates if not Path(path).exists()]
    if missing:
        raise StepError(f"{', '.join(missing)} is missing, though the step should have made it", 1)
    for folder in step.scratch:
        shutil.rmtree(folder, ignore_errors=True)
    from realign_plugin.lab.study.tables import versions

    marker = Marker(
        name=step.name,
        kind=step.kind,
        fingerprint=step.fingerprint,
        commands=[text(command) for command in step.does],
        files=step.files,
        seconds=round(time.monotonic() - start, 2),
        log=str(log.relative_to(plan.folder)),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )
    write_json(plan.marker(step.name), marker.model_dump())
    progress.forget()


class Progress:
    """Which commands of a step are done; discarded when the step or what it needs has changed since.

    Attributes:
        path: The file that remembers it.
        done: Numbers of the commands that are done.
        fresh: Whether the step starts from the beginning.
    """

    def __init__(self, plan: Plan, step: Step) -> None:
        self.path = plan.marker(step.name).with_suffix(".progress")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.commands = self.path.with_suffix(".commands.json")
        self.done: set[int] = set()
        needs = [plan.marker(name) for name in step.needs]
        self.fresh = not (
            self.path.exists()
            and self.path.read_text(encoding="utf-8").startswith(step.fingerprint)
            and all(need.exists() and need.stat().st_mtime <= self.path.stat().st_mtime for need in needs)
            and not plan.newer_inputs(step, self.path)
        )
        if not self.fresh:
            self.done = {int(word) for word in self.path.read_text(encoding="utf-8").split()[1:] if word.isdigit()}

    def begin(self, step: Step) -> None:
        """Forget what was done and start from the beginning."""
        self.forget()
        write_text(self.path, step.fingerprint + "\n")

    def add(self, number: int) -> None:
        """Remember that a command is done."""
        with open(self.path, "a", encoding="utf-8") as file:
            print(number, file=file)

    def forget(self) -> None:
        """Remove the files."""
        for file in (self.path, self.commands):
            file.unlink(missing_ok=True)


def begin(plan: Plan, step: Step, progress: Progress) -> None:
    """Write a step's files, and remove what an earlier, different or unfinished run left in the study's folder."""
    ours = [path for path in map(Path, step.creates) if _inside(plan, path)]
    if progress.fresh:
        progress.begin(step)
        for folder in step.scratch:  # mergekit takes a merged adapter that it finds there for the present one
            shutil.rmtree(folder, ignore_errors=True)
        for path in ours if step.training is not None or step.kind not in KEEPERS else ():
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
    for name, content in step.files.items():
        write_text(name, content)
    if step.training is not None and _inside(plan, Path(step.training.folder)):
        go_on(Path(step.training.folder), step.training.stage)


def _inside(plan: Plan, path: Path) -> bool:
    """Whether a path is in the study's folder, below it: what is elsewhere is the user's and never removed."""
    whole = Path(os.path.abspath(path))
    return whole != plan.folder and whole.is_relative_to(plan.folder)


@contextmanager
def held(plan: Plan, step: Step) -> Iterator[None]:
    """Hold a step, so that no second process runs it, for example after a study was stopped and started again.

    Raises:
        StepError: If another process runs it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(plan.folder / "locks" / f"{step.name}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StepError(f"another process runs {step.name}; wait for it, or stop it", 1) from error
    try:
        yield
    finally:
        lock.release()


def _environment(step: Step) -> dict[str, str]:
    tools = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": str(step.threads),
        # Threads that spin while they wait take the cores from other steps.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _together(plan: Plan, step: Step, progress: Progress, output: IO[str], environment: dict[str, str]) -> None:
    todo = [[number, line] for number, line in enumerate(step.commands) if number not in progress.done]
    if not todo:
        return
    if len(step.does) == 1:
        _execute(step.does[0], output, environment)
        return
    write_json(progress.commands, todo)
    line = ("python", "-m", "realign_plugin.lab.study.together", str(progress.commands), str(progress.path))
    _execute(Line(line), output, environment)


def _replacing(plan: Plan, step: Step, command: Command) -> Command:
    """The command that makes a data set, with leave to replace the one that the study itself made in a user's folder.

    The option is not in the plan, where it would make the step run again.
    """
    if step.kind not in ("data", "on_policy") or "--overwrite" in words(command) or not plan.made_before(step):
        return command
    return Line((*words(command), "--overwrite"))


def _execute(command: Command, output: IO[str], environment: dict[str, str]) -> None:
    typed = text(command)
    print(f"$ {typed}", file=output, flush=True)
    program, *others = words(command)
    found = subprocess.run(
        typed if isinstance(command, Shell) else [sys.executable if program == "python" else program, *others],
        shell=isinstance(command, Shell), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        env=environment, check=False,
    )  # fmt: skip
    if found.returncode:
        name = typed.split()[0] if isinstance(command, Shell) else program  # a shell's text need not be well quoted
        raise StepError(f"{name} ended with {found.returncode}", found.returncode)


def numbered(plan: Plan, name: str) -> str:
    """``[7/24]``: how many of the steps to do have started, this one included; ``*`` where that is not known."""
    from filelock import FileLock

    try:
        with FileLock(plan.todo.with_suffix(".lock")):
            known = read_json(plan.todo, "", "the steps to do")
            if name not in known["started"]:
                write_json(plan.todo, known | {"started": [*known["started"], name]})
                known["started"].append(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "*"
    return f"[{known['started'].index(name) + 1}/{known['steps']}]"


def tail(log: Path) -> list[str]:
    """The end of a log: the last line that names an error, else the last lines that are not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    last = [line.strip() for line in lines if line.strip()]
    named = [line for line in last[-LOOKED_AT:] if ERROR.match(line)]
    return named[-1:] or last[-TAIL:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step; a failure leaves a file with the reason."""
    path, name = arguments or sys.argv[1:]
    plan = Plan.load(Path(path))
    step = plan.steps[name]
    print(f"{numbered(plan, name)} {step.title}", flush=True)
    try:
        with held(plan, step):
            run(plan, step)
    except (StepError, UserError, OSError) as error:
        log = plan.log(name)
        failed = Failure(step=name, log=str(log), message=str(error), tail=tail(log))
        write_json(plan.failure(name), failed.model_dump())
        print(f"! {name}: {error}; {log}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
