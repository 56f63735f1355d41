"""The judge's card: who judged, in which way, and what it could not judge, over all results of a run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from realign_plugin.evaluation.metrics.agreement import agreements
from realign_plugin.lab.records import Judging


@dataclass
class JudgeCard:
    """One judge, as it was set up; results that were judged alike share a card.

    Attributes:
        judge: ``off``, or the kind of judge.
        model: Its model.
        mode: What it was asked.
        order: How answers were paired.
        prompts: Versions of its prompts.
        policy: What a guard's verdict between safe and unsafe counts as.
        agreements: Where it and a second judge agree and differ, in a line a task.
        results: How many results files it judged; 0 of a repair, which has none, and whose calls are not on record.
        calls: Requests that were answered.
        cached: Verdicts that came from the cache.
        unjudged: Answers without a verdict.
        tokens: Tokens sent and received.
        cost: In the currency of the prices, where they were given.
        errors: Why answers stayed unjudged, and how many of them.
        failures: Lines that say why judging broke off.
    """

    judge: str
    model: str | None = None
    mode: str | None = None
    order: str | None = None
    prompts: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    agreements: list[str] = field(default_factory=list)
    results: int = 0
    calls: int = 0
    cached: int = 0
    unjudged: int = 0
    tokens: int = 0
    cost: float | None = None
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def off(self) -> bool:
        """Whether there was no judge, and refusals were detected by their phrases."""
        return self.judge == "off"

    def add(self, report: Mapping[str, Any]) -> None:
        """Count in one results file's report.

        Args:
            report: lm-eval's ``realign.judge.report``; numbers that are missing count as none.
        """
        self.results += 1
        self.calls += _count(report.get("calls"))
        self.cached += _count(report.get("cached"))
        self.unjudged += _count(report.get("unjudged"))
        self.tokens += _count(report.get("prompt_tokens")) + _count(report.get("completion_tokens"))
        if isinstance(report.get("cost"), (int, float)):
            self.cost = (self.cost or 0.0) + report["cost"]
        errors = report.get("errors")
        for reason, count in (errors if isinstance(errors, dict) else {}).items():
            self.errors[str(reason)] += _count(count)
        if report.get("fatal") and str(report["fatal"]) not in self.failures:
            self.failures.append(str(report["fatal"]))


def judge_cards(judges: Mapping[str, Mapping[str, Any]], judging: Judging | None = None) -> list[JudgeCard]:
    """A card for each way of judging; a second judge has its own.

    Args:
        judges: lm-eval's ``realign.judge`` records, by the results file's path.
        judging: How a repair's answers were judged.
    """
    if judging is not None:
        judge = [JudgeCard("openai", judging.model, unjudged=judging.unjudged)] if judging.model else []
        return [*judge, JudgeCard("off")]
    cards: dict[str, JudgeCard] = {}
    for path, record in judges.items():
        card = _card(cards, record)
        card.agreements += [f"{path.rpartition('/')[0] or path}: {one.line()}" for one in agreements(record)]
        if isinstance(record.get("second"), Mapping):
            _card(cards, record["second"])
    return sorted(cards.values(), key=lambda card: (card.off, -card.results))


def _card(cards: dict[str, JudgeCard], record: Mapping[str, Any]) -> JudgeCard:
    """The card of a judge, with its report counted in."""
    settings = {key: record.get(key) for key in ("judge", "model", "mode", "order", "prompts", "policy")}
    card = cards.setdefault(
        json.dumps(settings, sort_keys=True),
        JudgeCard(
            str(settings["judge"] or "unknown"),
            _name(settings["model"]),
            _name(settings["mode"]),
            _name(settings["order"]),
            settings["prompts"] if isinstance(settings["prompts"], dict) else {},
            _name(settings["policy"]),
        ),
    )
    report = record.get("report")
    card.add(report if isinstance(report, dict) else record)
    return card


def _name(value: Any) -> str | None:
    return None if value is None else str(value)


def _count(value: Any) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if number else 0
