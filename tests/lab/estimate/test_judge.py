from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.lab.estimate.judge import judge_calls
from realign_plugin.lab.study.planning.commands import Measure


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "REALIGN_JUDGE", "REALIGN_DATA", "REALIGN_REFERENCE"):
        monkeypatch.delenv(name, raising=False)


def command(tasks: str, metadata: dict[str, Any] | None = None, **options: Any) -> Measure:
    return Measure({}, tuple(tasks.split(",")), "out", True, options, metadata or {})


def test_calls_and_tokens() -> None:
    found = judge_calls(command("safety"))
    assert found.answers == found.calls == 110 + 140 + 196 + 200 + 200
    assert found.completion_tokens == 512 * found.calls
    assert not found.judging
    assert not found.local
    short = judge_calls(command("safety", gen_kwargs="temperature=0,max_gen_toks=12"))
    assert found.prompt_tokens - short.prompt_tokens == 500 * found.calls
    for same in ({"temperature": 0, "max_gen_toks": 12}, ["temperature=0", "max_gen_toks=12"]):
        assert judge_calls(command("safety", gen_kwargs=same)).prompt_tokens == short.prompt_tokens


def test_preferences_are_asked_in_both_orders() -> None:
    asked = {"reference": "somewhere", "judge": "off"}
    both = judge_calls(command("safety_catqa", metadata=asked))
    single = judge_calls(command("safety_catqa", metadata=asked | {"judge_order": "single"}))
    assert (both.calls, single.calls) == (330, 220)


def test_limits_and_prices() -> None:
    prices = {"judge_price_prompt": 1.0, "judge_price_completion": 2.0, "judge_max_tokens": 100}
    found = judge_calls(command("safety", limit=10, metadata=prices))
    assert found.calls == 50
    assert found.price == pytest.approx((found.prompt_tokens + 2 * 50 * 100) / 1e6)
    assert judge_calls(command("safety_catqa", limit="0.1")).calls == 11


def test_a_local_folder_is_counted(tmp_path: Path) -> None:
    (tmp_path / "catqa.json").write_text(json.dumps([{"prompt": f"made up {n}"} for n in range(7)]))
    metadata = {"safety_data": str(tmp_path)}
    found = judge_calls(command("safety_catqa", metadata=metadata))
    assert found.calls == 7
    assert found.local


def test_whether_a_judge_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not judge_calls(command("safety")).judging
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    assert judge_calls(command("safety")).judging
    assert not judge_calls(command("safety", metadata={"judge": "off"})).judging


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(UserError, match=r"'judge_ordr' is unknown.*judge_order"):
        judge_calls(command("safety", metadata={"judge_ordr": "single"}))


def test_guards_take_their_own_number_of_calls() -> None:
    one = judge_calls(command("safety_catqa", {"judge": "shieldgemma", "judge_model": "m", "reference": "r"}))
    assert (one.answers, one.calls, one.completion_tokens) == (110, 440, 8 * 440)
    blind = judge_calls(command("over_refusal_xstest", {"judge": "llama_guard", "judge_model": "m"}))
    assert (blind.answers, blind.calls) == (250, 0)  # it tells nothing of refusals
    two = judge_calls(command("safety_catqa", {"judge": ["qwen3guard", "openai_tags"], "judge_model": ["q", "chat"]}))
    assert (two.calls, two.model, two.judging) == (220, "q and chat", True)
    here = judge_calls(command("safety_catqa", {"judge": "local", "judge_model": "x/Qwen3Guard-Gen-0.6B"}))
    assert (here.answers, here.calls, here.judging) == (110, 0, True)
