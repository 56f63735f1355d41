"""Stock commands in processes that start quickly: forked from one that has imported the libraries below the hosts.

Importing torch, transformers and their like takes a command about six seconds. The hosts themselves are imported in
the forked process, so that our hooks run there as they do in a process of the user's. Each host's command is also
started without this: by ``tests/lab/study/test_whole.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

SHARED = (
    "torch", "transformers.trainer", "datasets", "scipy.stats", "sklearn.metrics", "pyarrow.parquet", "gradio",
    "matplotlib.pyplot", "nltk",
)  # fmt: skip
"""What the hosts import; peft, which transformers imports, is hooked as the process starts."""
COMMANDS = ("llamafactory-cli", "lm_eval", "mergekit-yaml", "mergekit-multi")
READ_AT_START = {"REALIGN_PLUGIN", "PYTHONPATH", "USE_RAY", "DS_ACCELERATOR"}
"""Variables that have to be there when the interpreter starts, or when torch is imported."""
TOOLS = Path(sys.executable).parent
TIMEOUT = 240


class Forked:
    """A command in a forked process, with the methods of ``subprocess.Popen`` that our code and tests use.

    Args:
        words: The command's name and its arguments.
        environment: All variables.
        stdout: File descriptor; its standard error too, unless another is given.
        stderr: File descriptor.
        stdin: File descriptor.
    """

    _context = multiprocessing.get_context("forkserver")

    def __init__(
        self, words: list[str], environment: dict[str, str], stdout: str, stderr: str, stdin: str = os.devnull
    ) -> None:
        self._context.set_forkserver_preload(list(SHARED))
        self._process = self._context.Process(target=_command, args=(words, environment, stdout, stderr, stdin))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _command(words: list[str], environment: dict[str, str], stdout: str, stderr: str, stdin: str) -> None:
    """Run a console script's file as its own process would."""
    for number, name, flags in ((0, stdin, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        file = os.open(name, flags | (os.O_APPEND if number else 0))
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    script = str(TOOLS / words[0])
    sys.argv = [script, *words[1:]]
    runpy.run_path(script, run_name="__main__")


def run_command(
    words: list[str], environment: dict[str, str], stdin: str | None, forked: bool
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment to its end."""
    if not forked:
        return subprocess.run(
            [str(TOOLS / words[0]), *words[1:]], capture_output=True, text=True, env=environment, input=stdin,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr", "stdin")]
        for file, text in zip(files, ("", "", stdin or ""), strict=True):
            file.write_text(text, encoding="utf-8")
        code = Forked(words, environment, *map(str, files)).wait(TIMEOUT)
        out, error = (file.read_text(encoding="utf-8") for file in files[:2])
    return subprocess.CompletedProcess(words, code, out, error)
