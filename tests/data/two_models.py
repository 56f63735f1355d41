"""Stands for the aligned and the fine-tuned model, which say what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from realign_plugin.data.on_policy import OnPolicy, on_policy
from realign_plugin.data.on_policy_options import Amounts, Models, Sources
from realign_plugin.data.recipe import Request
from realign_plugin.data.rows.examples import Prompt

REFUSES, HELPS = "Sorry, I can not help with that.", "Take paper and fold it twice, then glue the corners."
Rule = Callable[[str, str], str]


class Stand:
    """Stands for the models: says what a rule says, and may stop after some batches."""

    def __init__(self, rule: Rule, stops_after: int = 10**6) -> None:
        self.rule, self.left, self.loaded, self.asked = rule, stops_after, 0, list[str]()

    def __call__(self, model: str, adapters: Any) -> Stand:
        self.loaded += 1
        return self

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += [prompt.text for prompt in prompts]
        return [self.rule(name, prompt.text) for prompt in prompts]


def usual(name: str, text: str) -> str:
    """Of ten: both refuse 0 and 1, only the aligned 2 to 5, only the fine-tuned 6, neither the rest."""
    number = int(text.split()[-2])
    aligned, fine_tuned = number in (0, 1, 2, 3, 4, 5), number in (0, 1, 6)
    return REFUSES if (aligned if name == "aligned" else fine_tuned) else HELPS


def make(lab: Path, folder: Path, sources: Sources, answerer: Any, **options: Any) -> OnPolicy:
    models = Models(
        **{"model": str(lab / "base"), "adapter": lab / "task1", "aligned": lab / "aligned"} | taken(options, Models)
    )
    amounts = Amounts(**{"batch_size": 4} | taken(options, Amounts))
    return on_policy(Request(folder, **{"name": "on_policy"} | options), sources, models, amounts, answerer=answerer)


def taken(options: dict[str, Any], kind: type) -> dict[str, Any]:
    """The fields of a dataclass, taken out of the options."""
    return {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().split("\n") if line]
