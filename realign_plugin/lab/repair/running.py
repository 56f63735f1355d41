"""Runs a training as the stock command, shows its progress, and resumes an interrupted run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from realign_plugin.data.rows.progress import counted
from realign_plugin.errors import UserError
from realign_plugin.files import write_json, write_text
from realign_plugin.lab.repair.training import as_yaml
from realign_plugin.lab.study.resuming import go_on
from realign_plugin.lab.study.run import tail
from realign_plugin.staging import reported

LOOK: Final = 0.5
"""Seconds between two checks of a training."""


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold a folder, so that no second repair works in it; child processes hold it as well.

    Yields:
        The lock's file descriptor, for the processes that are started.

    Raises:
        UserError: If another process holds it.
    """
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--out: another process works in {folder}, expected none (a training of a repair that was killed may "
                "still run); wait for it, or stop it"
            ) from error
        yield lock
    finally:
        os.close(lock)


def train(name: str, recipe: Path, arguments: dict[str, Any], log: Path, done: Path, lock: int) -> None:
    """Run ``llamafactory-cli train`` to its end, once.

    Args:
        name: What it is called.
        recipe: File of its arguments; written.
        arguments: Its arguments.
        log: Where its output goes.
        done: Marker of a finished training.
        lock: File descriptor that it holds on to.

    Raises:
        UserError: If the arguments or the data are at fault.
        RuntimeError: If it fails for another reason.
    """
    if done.exists():
        return
    folder, text = Path(str(arguments["output_dir"])), as_yaml(arguments)
    if recipe.exists() and recipe.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)  # begun with other options: an earlier version's defaults, say
    write_text(recipe, text)
    go_on(folder, str(arguments["stage"]))
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "llamafactory.cli", "train", str(recipe)]
    started = time.monotonic()
    with open(log, "a", encoding="utf-8") as output, counted(f"training {name}", int(arguments["max_steps"])) as on:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=(lock,)
        )
        seen = 0
        try:
            while process.poll() is None:
                time.sleep(LOOK)
                now = _step(folder)
                on(max(0, now - seen))
                seen = max(now, seen)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        lines = tail(log)
        if process.returncode == UserError.exit_code:
            raise UserError(lines[-1].removeprefix("error: ") if lines else f"{recipe}: failed, see {log}")
        raise RuntimeError("\n".join([f"the training of {name} ended with {process.returncode}; see {log}", *lines]))
    spent = round(time.monotonic() - started, 1)
    write_json(done, {"command": f"llamafactory-cli train {recipe}", "seconds": spent, "log": str(log)})


def _step(folder: Path) -> int:
    """The last step that a training has logged."""
    try:
        lines = (folder / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["current_steps"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0
