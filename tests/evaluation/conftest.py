"""A judge for a server of the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECRET = "sk-unmistakable-0123456789"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A judge for a server or an address, with a cache of its own."""
    from realign_plugin.evaluation.judge import Judge
    from realign_plugin.evaluation.settings import EvaluationSettings

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def judge(server: Any, **settings: Any) -> Judge:
        monkeypatch.setenv("OPENAI_BASE_URL", server if isinstance(server, str) else server.url)
        options = {"judge_cache": str(tmp_path / "cache"), "judge_retries": 3} | settings
        return Judge(EvaluationSettings.load(options))

    return judge
