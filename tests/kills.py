"""Kills a process at each change that it makes to the file system."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

RENAMES = {"os.rename", "os.link", "os.remove"}
"""What makes a difference to whoever looks on."""
CHANGES = {*RENAMES, "open", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"}


def kill_at_each_change(
    root: Path,
    before: Callable[[], Any],
    action: Callable[[], Any],
    after: Callable[[], Any],
    changes: Collection[str] = CHANGES,
) -> int:
    """Run an action again and again in a process that ends, without any clean-up, at its first, second, … change.

    Args:
        root: Changes below this folder count.
        before: Called before each run.
        action: What is run; the last time it is not cut off.
        after: Called after each run.
        changes: Audit events that count.

    Returns:
        How many changes the action makes.
    """
    for number in itertools.count():
        before()
        child = os.fork()
        if child == 0:
            _run(root, action, number, changes)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), f"ended with {code} at change {number}"
        after()
        if code == 0:
            return number
    raise AssertionError


def _run(root: Path, action: Callable[[], Any], number: int, changes: Collection[str]) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in changes and str(arguments[0]).startswith(str(root)):
            if count == number:
                os._exit(9)
            count += 1

    sys.addaudithook(hook)
    try:
        action()
    except BaseException:  # the parent has to learn of anything
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
