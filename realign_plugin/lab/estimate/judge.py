"""How often a judge is asked, and at most how many tokens that takes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation.judging import prompts
from realign_plugin.evaluation.judging.chosen import TAGS, Chosen
from realign_plugin.evaluation.judging.settings import KEY, URL, EvaluationSettings
from realign_plugin.evaluation.judging.verdicts import Mode
from realign_plugin.evaluation.prompt_sets import number_of_prompts, prompt_sets
from realign_plugin.lab.study.planning.commands import Measure

ANSWER: Final = 512
"""Tokens of an answer at most, unless ``--gen_kwargs`` says otherwise: ``evaluation.task.MAX_TOKENS``."""
CHARACTERS: Final = 4
"""Characters of a token, about, in English."""
PROMPT: Final = 60
"""Tokens of a prompt, about; those in an attack's template are longer."""
FORM: Final = 400
"""Tokens of a guard's own form, about: a policy or a rubric, in its chat template or around the exchange."""


@dataclass
class Calls:
    """Requests to a judge and their tokens, at most.

    Attributes:
        answers: Answers that are judged.
        calls: Requests.
        prompt_tokens: Tokens that are sent.
        completion_tokens: Tokens that come back.
        judging: Whether the settings name a judge.
        price: What it costs, where the settings say prices; in their currency.
        model: The judge.
        local: Whether all prompts were counted in local files.
    """

    answers: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    judging: bool = False
    price: float | None = None
    model: str = ""
    local: bool = True


def judge_calls(command: Measure) -> Calls:
    """What a judge is asked in one run of lm-eval.

    Raises:
        UserError: If a setting of the judge means nothing.
    """
    # What a judge would be asked is counted even without a key, which may be set later.
    settings = EvaluationSettings.load(command.metadata | {"judge": "off"})
    include = command.options.get("include_path")
    judges = _would_be_asked(command.metadata) or (Chosen(TAGS, settings.models[0]),)
    calls = Calls(judging=_asked(command.metadata), model=" and ".join(one.model for one in judges))
    answer = _answer_tokens(command.options.get("gen_kwargs"))
    for part in prompt_sets(command.tasks, Path(str(include)) if include else None):
        count, local = number_of_prompts(part, settings.safety_data)
        calls.local &= local
        count = _limited(count, command.options.get("limit"))
        mode: Mode = "refusal" if part.kind == "benign" else settings.judge_mode
        calls.answers += count
        for judge in (one for one in judges if not one.local):
            if judge.guard is not None:
                asked = count * judge.guard.times if mode in judge.guard.feeds else 0
                _add(calls, asked, FORM + PROMPT + answer, judge.guard.max_tokens or settings.judge_max_tokens)
                continue
            _add(calls, count, _question(mode, answer), 0 if mode == "moderation" else settings.judge_max_tokens)
            if settings.reference is not None and settings.judge_preference and judge is judges[0]:
                orders = 2 if settings.judge_order == "both" else 1
                _add(calls, orders * count, _question("preference", answer), settings.judge_max_tokens)
    if settings.judge_price_prompt is not None or settings.judge_price_completion is not None:
        prompt = calls.prompt_tokens * (settings.judge_price_prompt or 0)
        calls.price = (prompt + calls.completion_tokens * (settings.judge_price_completion or 0)) / 1e6
    return calls


def _would_be_asked(metadata: Mapping[str, Any]) -> tuple[Chosen, ...]:
    """The judges, as if a key were set."""
    environ = {name: value for name, value in os.environ.items() if name != URL}
    return EvaluationSettings.load(metadata, environ | {KEY: "none"}).chosen


def _asked(metadata: Mapping[str, Any]) -> bool:
    try:
        return EvaluationSettings.load(metadata).judge != "off"
    except UserError:
        return True  # asked for, but the key is yet to be set


def _add(calls: Calls, count: int, prompt: int, completion: int) -> None:
    calls.calls += count
    calls.prompt_tokens += count * prompt
    calls.completion_tokens += count * completion


def _question(mode: str, answer: int) -> int:
    """Tokens of one request: the template, the prompt, and one answer or two of the longest kind."""
    if mode == "moderation":
        return answer
    words = {"harmful": prompts.HARMFUL, "refusal": prompts.REFUSAL, "preference": prompts.PREFERENCE}[mode]
    around = math.ceil((len(prompts.SYSTEM) + len(words)) / CHARACTERS)
    return around + PROMPT + answer * (2 if mode == "preference" else 1)


def _limited(count: int, limit: Any) -> int:
    if not limit:
        return count
    number = float(limit)
    return min(count, math.ceil(count * number) if number < 1 else int(number))


def _answer_tokens(given: Any) -> int:
    if isinstance(given, Mapping):
        given = ",".join(f"{key}={value}" for key, value in given.items())
    text = ",".join(map(str, given)) if isinstance(given, list) else str(given or "")
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key.strip() in ("max_gen_toks", "max_new_tokens", "max_tokens") and value.strip().isdigit():
            return int(value)
    return ANSWER
