"""Ends a study at once on request: its processes too, and in the background as in front."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

PATIENCE: Final = 20.0
"""Seconds that processes have to end by themselves."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):  # like KeyboardInterrupt: not an error, and nothing in between catches it
    """The study was asked to stop.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that shells give to a process which the signal ended."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise ``Stopped``.

    A shell without job control starts what is in the background with SIGINT ignored, and so would every child be: a
    handler is set, which a child does not inherit.
    """

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_group(words: list[str], **options: Any) -> int:
    """Run a command in a process group of its own; when this process is stopped, nothing of it goes on.

    Returns:
        Its exit code.

    Raises:
        Stopped: If it was stopped; within ``stoppable``.
    """
    process = subprocess.Popen(words, start_new_session=True, **options)
    try:
        return process.wait()
    except Stopped as stopped:
        _end(process, stopped.number)
        raise


def _end(process: subprocess.Popen[Any], number: int) -> None:
    """Pass a signal on to a process group, and end it for good where that does not suffice in time, or at a second."""
    with suppress(Stopped):
        _tell(process.pid, number)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and _lives(process):
            time.sleep(0.1)
    _tell(process.pid, signal.SIGKILL)
    process.wait()


def _tell(group: int, number: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def _lives(process: subprocess.Popen[Any]) -> bool:
    process.poll()  # a child that has ended counts until it is waited for
    return _tell(process.pid, 0)
