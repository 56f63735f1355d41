"""How a judge is asked and how its answers are read: by our tags, or in a guard's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from realign_plugin.evaluation.judging import prompts
from realign_plugin.evaluation.judging.cache import key_of
from realign_plugin.evaluation.judging.chosen import TAGS, Chosen
from realign_plugin.evaluation.judging.guards import Guard
from realign_plugin.evaluation.judging.guards.guard import CHAT, PROBE, Question
from realign_plugin.evaluation.judging.parameters import wanted
from realign_plugin.evaluation.judging.prompts import Item
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.judging.verdicts import Mode, Verdict, preference_of, read_verdict

MODERATION_MODEL: Final = "omni-moderation-latest"
MODERATIONS: Final = "/moderations"


@dataclass(frozen=True)
class Request:
    """One question to the judge: its key in the cache, and what is sent."""

    key: str
    question: Question


class TagFormat:
    """Our own questions, to any chat model; see ``prompts`` and ``verdicts``."""

    reads_cut_off = False
    raw = False

    def __init__(self, settings: EvaluationSettings, chosen: Chosen, server: str) -> None:
        """Take what the settings say.

        Args:
            settings: Order of comparisons, longest answer.
            chosen: The judge.
            server: Its address, for the cache's keys.
        """
        self._settings, self._chosen, self._server = settings, chosen, server
        self.max_tokens = settings.judge_max_tokens

    def model(self, mode: Mode) -> str:
        """The judge's model, or OpenAI's for moderations."""
        chosen = self._chosen.model
        return MODERATION_MODEL if mode == "moderation" and "moderation" not in chosen else chosen

    def prepare(self) -> None:
        """Nothing is needed."""

    def requests(self, mode: Mode, item: Item) -> list[Request]:
        """One question, or two for a preference in both orders."""
        parts = {
            "model": self.model(mode),
            "server": self._server,
            "mode": mode,
            "version": prompts.VERSIONS[mode],
            "parameters": {} if mode == "moderation" else wanted(self.max_tokens),
        }
        texts = prompts.questions(mode, item, both=self._settings.judge_order == "both")
        if mode == "moderation":
            return [Request(key_of(prompt=text, **parts), Question(MODERATIONS, {"input": text})) for text in texts]
        chats = [prompts.messages(text) for text in texts]
        return [Request(key_of(prompt=chat, **parts), Question(CHAT, {"messages": chat})) for chat in chats]

    def read(self, text: str | None, mode: Mode) -> Verdict:
        """Read the tag on the last line."""
        return read_verdict(text, mode)

    def verdict(self, mode: Mode, parts: Sequence[Verdict]) -> Verdict:
        """The one verdict, or a preference from both orders."""
        return preference_of(*parts) if mode == "preference" else parts[0]

    def record(self) -> dict[str, Any]:
        """Mode, versions of the prompts, order."""
        settings = self._settings
        return {"mode": settings.judge_mode, "prompts": dict(prompts.VERSIONS), "order": settings.judge_order}


class GuardFormat:
    """A guard's own form; one reply tells everything that the guard knows of an answer."""

    def __init__(self, settings: EvaluationSettings, chosen: Chosen, guard: Guard, server: str) -> None:
        """Take what the settings say.

        Args:
            settings: The policy, and the longest answer where the guard sets none.
            chosen: The judge.
            guard: Its guard.
            server: Its address, for the cache's keys.
        """
        self._chosen, self._guard, self._policy = chosen, guard, settings.judge_policy
        self.max_tokens = guard.max_tokens or settings.judge_max_tokens
        self.reads_cut_off = guard.reads_cut_off
        self.raw = guard.raw
        self._parts: Mapping[str, Any] = {
            "guard": guard.name,
            "version": guard.version,
            "model": chosen.model,
            "server": server,
            "parameters": wanted(self.max_tokens),
        } | ({"policy": self._policy} if guard.has_policy else {})

    def model(self, mode: Mode) -> str:
        """The guard's model."""
        return self._chosen.model

    def prepare(self) -> None:
        """See that the guard's form is there.

        Raises:
            UserError: If it has to be installed.
        """
        self._guard.put(PROBE)

    def requests(self, mode: Mode, item: Item) -> list[Request]:
        """The exchange in the guard's form."""
        if not item.answer.strip():
            return []
        questions = self._guard.put(item)
        return [Request(key_of(path=q.path, fields=dict(q.fields), **self._parts), q) for q in questions]

    def read(self, text: str | None, mode: Mode) -> Verdict:
        """Read the guard's answer for one mode; the rest that it tells comes along."""
        if text is None:
            return Verdict(None, "judge refused")
        reading = self._guard.read(text, self._policy)
        if reading is None:
            return Verdict(None, "unreadable" if text.strip() else "empty", text)
        harmful = None if reading.harmful is None else "harmful" if reading.harmful else "unharmful"
        refusal = None if reading.refusal is None else "direct_refusal" if reading.refusal else "direct_answer"
        label = refusal if mode == "refusal" else harmful
        return Verdict(label, None if label else "unreadable", text, refusal, reading.score)

    def verdict(self, mode: Mode, parts: Sequence[Verdict]) -> Verdict:
        """The one verdict; of several, harmful if one is, and unjudged if one is missing and none is harmful."""
        ordered = sorted(parts, key=lambda part: (part.label != "harmful", part.label is not None))
        return ordered[0]

    def record(self) -> dict[str, Any]:
        """Guard, version of its form, policy."""
        record: dict[str, Any] = {"guard": self._guard.name, "prompts": {self._guard.name: self._guard.version}}
        return record | ({"policy": self._policy} if self._guard.has_policy else {})


def format_of(settings: EvaluationSettings, chosen: Chosen, server: str) -> TagFormat | GuardFormat:
    """The format in which a judge is asked.

    Args:
        settings: The run's.
        chosen: The judge.
        server: Its server's address as it may be shown, or ``local``.
    """
    guard = chosen.guard
    assert guard is not None or chosen.name == TAGS
    return TagFormat(settings, chosen, server) if guard is None else GuardFormat(settings, chosen, guard, server)
