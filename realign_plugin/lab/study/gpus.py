"""Assigns this machine's GPUs to steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step


@contextmanager
def gpus(plan: Plan, step: Step) -> Iterator[dict[str, str]]:
    """GPUs of this machine for a step, held until it ends.

    Yields:
        What to add to the environment; nothing where the configuration assigns no GPUs.
    """
    known = plan.config["machine"]["gpus"]
    if not known or not step.gpus:
        yield {}
        return
    from filelock import FileLock, Timeout

    folder = plan.folder / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            held: list[int] = []
            with ExitStack() as attempt:
                for number in known:
                    lock = FileLock(folder / f"gpu-{number}.lock")
                    try:
                        attempt.enter_context(lock.acquire(blocking=False))
                    except Timeout:
                        continue
                    held.append(number)
                    if len(held) == step.gpus:
                        stack.push(attempt.pop_all())
                        break
            if len(held) == step.gpus:
                break
            time.sleep(1.0)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(map(str, held))}
