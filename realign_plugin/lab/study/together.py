"""Runs stock command lines one after the other in one process, so that their imports are paid for once.

python -m realign_plugin.lab.study.together COMMANDS.json DONE

The file holds ``[[number, [word, …]], …]``; the number of each command that ended well is appended to the file
``DONE``. Ends with the exit code of the first command that failed.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError


@lru_cache
def entry_point(program: str) -> Callable[[], Any]:
    """What a console script calls.

    Raises:
        UserError: If no installed package has such a script.
    """
    for found in metadata.entry_points(group="console_scripts", name=program):
        return found.load()  # type: ignore[no-any-return]
    raise UserError(f"{program}: is not an installed command, expected one; pip install 'realign-plugin[all]'")


def share_task_index() -> None:
    """Let lm-eval look through its task folders once for all command lines: they hold the same files throughout."""
    from realign_plugin.evaluation.hook import remember_index

    remember_index()


def run(words: Sequence[str]) -> int:
    """Run one command line as its console script would.

    Returns:
        Its exit code.
    """
    program = entry_point(words[0])
    before, sys.argv = sys.argv, list(words)
    try:
        found = program()
        return found if isinstance(found, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the commands of a file."""
    path, finished = map(Path, arguments or sys.argv[1:])
    commands: list[tuple[int, list[str]]] = json.loads(path.read_text(encoding="utf-8"))
    if any(words[0] == "lm_eval" for _, words in commands):
        share_task_index()
    with open(finished, "a", encoding="utf-8") as done:
        for number, words in commands:
            print("+ " + shlex.join(words), flush=True)
            code = run(words)
            if code:
                sys.exit(code)
            print(number, file=done, flush=True)


if __name__ == "__main__":
    main()
