"""A local judge's chat template: every way in which it takes a question, and those it cannot render."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from realign_plugin import UserError
from realign_plugin.evaluation.judging.guards.guard import PROBE, RAW, Question, chat
from realign_plugin.evaluation.judging.judge import Judge
from realign_plugin.evaluation.judging.local_model import LocalModel
from realign_plugin.evaluation.judging.prompts import SYSTEM, harmful
from realign_plugin.evaluation.judging.rendering import Rendering
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from tests.evaluation.judging.test_local_model import items
from tests.evaluation.parrot import Evaluate, Parrot

END = "{% if add_generation_prompt %}<verdict>{% endif %}"
PLAIN = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }} {% endfor %}" + END
PARTS = (
    "{% for m in messages %}<{{ m['role'] }}> {% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}" + END
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPS_SYSTEM = "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}"
NO_ANSWER = "{% for m in messages if m['role'] == 'user' %}<user> {{ m['content'] }} {% endfor %}"


@pytest.fixture
def with_template(tmp_path: Path, guard: Path) -> Callable[[str | None, str], Path]:
    def copy(template: str | None, name: str = "Llama-Guard-copy") -> Path:
        folder = tmp_path / name
        shutil.copytree(guard, folder)
        (folder / "chat_template.jinja").unlink()
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return copy


def probe(folder: Path, guarded: bool) -> list[Question]:
    known = {"judge": "local", "judge_model": str(folder), "judge_guard": "llama_guard" if guarded else "openai_tags"}
    return [r.question for r in Judge(EvaluationSettings.load(known, {})).format.requests("harmful", PROBE)]


@pytest.mark.parametrize(
    ("template", "guarded", "expected"),
    [
        (PLAIN, True, Rendering()),
        (PLAIN, False, Rendering()),
        (PARTS, True, Rendering(parts=True)),
        (PARTS, False, Rendering(parts=True)),
        (NO_SYSTEM + PLAIN, True, Rendering()),
        (NO_SYSTEM + PLAIN, False, Rendering(system=False)),
        (DROPS_SYSTEM + PLAIN, False, Rendering(system=False)),
        (NO_SYSTEM + PARTS, False, Rendering(parts=True, system=False)),
    ],
)
def test_no_text_is_left_out(
    with_template: Callable[..., Path], template: str, guarded: bool, expected: Rendering
) -> None:
    folder = with_template(template, "Copy")
    (question,) = probe(folder, guarded)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendering = Rendering.of(tokenizer, [question], str(folder))
    assert rendering == expected
    text = rendering.text(tokenizer, question)
    if guarded:
        assert text.split() == f"<user> {PROBE.prompt} <assistant> {PROBE.answer} <verdict>".split()
    else:
        between = "" if expected.system else "<user>"
        assert (
            text.split()
            == (
                f"{between or '<system>'} {SYSTEM} {'<user>' if not between else ''} "
                f"{harmful(PROBE.prompt, PROBE.answer)} <verdict>"
            ).split()
        )


def test_raw_prompts_need_no_template(with_template: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(with_template(None))
    raw = Question(RAW, {"prompt": "how"})
    assert Rendering.of(tokenizer, [raw], "x").text(tokenizer, raw) == "how"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (NO_ANSWER, "it leaves out the texts of the turns"),
        (None, "Cannot use chat template functions"),
        ("{{ raise_exception('not for chats') }}", "not for chats"),
    ],
)
def test_a_template_that_cannot_render_is_told_before_any_answer(
    with_template: Callable[..., Path], evaluate: Evaluate, template: str | None, why: str
) -> None:
    model = Parrot()
    with pytest.raises(UserError, match=rf"judge_model: the chat template of .* \({why}.*\), expected one") as caught:
        evaluate("safety_catqa", model=model, judge="local", judge_model=str(with_template(template)))
    assert "\n" not in str(caught.value)
    assert model.asked == []


def test_verdicts_of_a_model_that_takes_typed_parts(with_template: Callable[..., Path], tmp_path: Path) -> None:
    given = {"judge": "local", "judge_model": str(with_template(PARTS)), "judge_cache": str(tmp_path / "cache")}
    judge = Judge(EvaluationSettings.load(given, {}))
    judge.check()
    verdicts = judge.judge("harmful", items(6))
    assert [v.label for v in verdicts] == ["harmful" if n % 3 == 0 else "unharmful" for n in range(6)]


def test_a_model_that_was_not_checked_takes_texts(with_template: Callable[..., Path]) -> None:
    model: Any = dict(LocalModel(str(with_template(PLAIN))).answer([chat(items(1)[0])], 4))
    assert model[0]["choices"][0]["message"]["content"] == "unsafe"
