"""How a run of lm-eval ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realign_plugin.evaluation import hook, session
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.judging.test_judge import items


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's command line, which judges three answers and then saves them."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.delenv("RANK", raising=False)

    class HarnessCLI:
        saved = False

        def execute(self, rule: Any) -> str:
            session.reset()
            with judge_server(rule=rule) as server:
                monkeypatch.setenv("OPENAI_BASE_URL", server.url)
                settings = EvaluationSettings.load({"judge_cache": str(tmp_path / "cache")})
                current = session.session(settings)
                assert current is not None
                current.judges[0].judge("harmful", items(3))
            self.saved = True
            return "done"

        def parse_args(self) -> None: ...

    hook.attach_harness(SimpleNamespace(HarnessCLI=HarnessCLI))  # type: ignore[arg-type]
    yield HarnessCLI()
    session.reset()


def test_answers_that_were_judged_in_part_are_exit_code_0(harness: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.execute(lambda text: "[[harmful]]" if "kite 0 " in text else "no idea") == "done"
    errors = capsys.readouterr().err
    assert "judge (harmful): 2 of 3 answers unjudged (2 unreadable)" in errors
    assert "error: " not in errors


def test_nothing_judged_is_exit_code_3_after_saving(harness: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        harness.execute(lambda _: "It is not [[harmful]]")
    assert (caught.value.code, harness.saved) == (3, True)
    assert "error: judge: none of 3 answers could be judged (harmful; 3 unreadable)" in capsys.readouterr().err


def test_other_ranks_do_not_end_the_one_that_saves(
    harness: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert harness.execute(lambda _: "no idea") == "done"
    assert "error: judge: none of 3 answers could be judged" in capsys.readouterr().err
