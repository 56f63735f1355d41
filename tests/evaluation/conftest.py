"""A judge for a server of the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import certifi
import pytest

from realign_plugin.evaluation.hook import remember_index

SECRET = "sk-unmistakable-0123456789"


@pytest.fixture(scope="session", autouse=True)
def indexed_once() -> None:
    """lm-eval's own task folder is indexed once: that takes seven seconds."""
    if "lm_eval" in sys.modules:
        remember_index()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate: to load them all takes each client longer than all the rest."""
    first, ending, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("certificate") / "one.pem"
    file.write_text(first + ending)
    return file


@pytest.fixture(autouse=True)
def quick_clients(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are made quickly."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A judge for a server or an address, with a cache of its own."""
    from realign_plugin.evaluation.judging.judge import Judge
    from realign_plugin.evaluation.judging.settings import EvaluationSettings

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def judge(server: Any, **settings: Any) -> Judge:
        monkeypatch.setenv("OPENAI_BASE_URL", server if isinstance(server, str) else server.url)
        options = {"judge_cache": str(tmp_path / "cache"), "judge_retries": 3} | settings
        return Judge(EvaluationSettings.load(options))

    return judge


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The five sets of prompts."""
    from tests.evaluation.parrot import folder_of

    return folder_of(tmp_path / "data")


@pytest.fixture
def evaluate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs tasks with the parrot; keywords are metadata."""
    from tests.evaluation.parrot import run_tasks

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("REALIGN_JUDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REALIGN_JUDGE_RETRIES", "1")
    return partial(run_tasks, data)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of tasks, next to ours; a run with any of them has no model to load."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "mine"
    folder.mkdir()

    class Both(TaskManager):
        def __init__(self, include_path: str, **options: Any) -> None:
            super().__init__(include_path=[include_path, str(folder)], **options)

    monkeypatch.setattr("tests.evaluation.parrot.TaskManager", Both)
    return folder
