from __future__ import annotations

import json
from pathlib import Path

import pytest

from realign_plugin import UserError
from realign_plugin.estimate.judge import judge_calls
from realign_plugin.evaluation.data import SOURCES
from realign_plugin.evaluation.prompt_sets import FULL, SUBSET, number_of_prompts, prompt_sets


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "REALIGN_JUDGE", "REALIGN_DATA", "REALIGN_REFERENCE"):
        monkeypatch.delenv(name, raising=False)


def command(tasks: str, **flags: str) -> list[str]:
    words = ["lm_eval", "--model", "hf", "--tasks", tasks, "--log_samples"]
    for name, value in flags.items():
        words += [f"--{name}", value]
    return words


def test_every_prompt_set_has_its_numbers() -> None:
    assert set(FULL) == set(SUBSET) == set(SOURCES)


def test_groups_are_their_tasks() -> None:
    assert [part.name for part in prompt_sets(["safety"])] == [
        f"safety_{name}" for name in ("catqa", "beavertails", "harmfulqa", "shadow", "dangerousqa")
    ]
    assert {part.kind for part in prompt_sets(["over_refusal"])} == {"benign"}
    assert sum(number_of_prompts(part, None)[0] for part in prompt_sets(["safety_catqa_topics"])) == 11 * 50
    assert prompt_sets(["realign_downstream", "gsm8k"]) == []


def test_calls_and_tokens() -> None:
    found = judge_calls(command("safety"))
    assert found.answers == found.calls == 110 + 140 + 196 + 200 + 200
    assert found.completion_tokens == 512 * found.calls
    assert not found.judging
    assert not found.local
    short = judge_calls(command("safety", gen_kwargs="temperature=0,max_gen_toks=12"))
    assert found.prompt_tokens - short.prompt_tokens == 500 * found.calls


def test_preferences_are_asked_in_both_orders() -> None:
    asked = {"reference": "somewhere", "judge": "off"}
    both = judge_calls(command("safety_catqa", metadata=json.dumps(asked)))
    single = judge_calls(command("safety_catqa", metadata=json.dumps(asked | {"judge_order": "single"})))
    assert (both.calls, single.calls) == (330, 220)


def test_limits_and_prices() -> None:
    prices = {"judge_price_prompt": 1.0, "judge_price_completion": 2.0, "judge_max_tokens": 100}
    found = judge_calls(command("safety", limit="10", metadata=json.dumps(prices)))
    assert found.calls == 50
    assert found.price == pytest.approx((found.prompt_tokens + 2 * 50 * 100) / 1e6)
    assert judge_calls(command("safety_catqa", limit="0.1")).calls == 11


def test_a_local_folder_is_counted(tmp_path: Path) -> None:
    (tmp_path / "catqa.json").write_text(json.dumps([{"prompt": f"made up {n}"} for n in range(7)]))
    metadata = json.dumps({"safety_data": str(tmp_path)})
    found = judge_calls(command("safety_catqa", metadata=metadata))
    assert found.calls == 7
    assert found.local


def test_whether_a_judge_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not judge_calls(command("safety")).judging
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    assert judge_calls(command("safety")).judging
    assert not judge_calls(command("safety", metadata='{"judge": "off"}')).judging


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(UserError, match=r"'judge_ordr' is unknown.*judge_order"):
        judge_calls(command("safety", metadata='{"judge_ordr": "single"}'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"task: [", "x.yaml is not YAML"),
        (b"task: \x80", "x.yaml is not UTF-8 text"),
        (b"- " * 2000, "x.yaml is not YAML"),
        (b"group: a\ntask: [a]", "the group 'a' is in itself"),
    ],
)
def test_task_files_of_one_s_own_that_are_none(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(UserError, match=f"^include_path: .*{message}"):
        prompt_sets(["a"], tmp_path)
