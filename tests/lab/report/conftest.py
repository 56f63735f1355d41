"""A run folder as a study leaves it behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lab.report.made_up_run import MadeUpRun


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks and two seeds; not to be changed."""
    return MadeUpRun(tmp_path_factory.mktemp("study") / "run", seeds=2, tasks=("gsm8k", "中文")).write()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one task and one seed, soon drawn; not to be changed."""
    return MadeUpRun(tmp_path_factory.mktemp("small") / "run", seeds=1, tasks=("gsm8k",), layers=2).write()


@pytest.fixture
def run_folder(small_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def page(made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report."""
    from realign_plugin.lab.report.page import write_report

    return write_report(made_run, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")
