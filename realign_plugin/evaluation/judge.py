"""The judge: one concurrent batch of requests to an OpenAI-compatible server, its verdicts cached on disk."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation import prompts
from realign_plugin.evaluation.cache import VerdictCache, key_of
from realign_plugin.evaluation.client import Client, in_a_loop, wanted
from realign_plugin.evaluation.failures import RequestError, problem
from realign_plugin.evaluation.prompts import Item
from realign_plugin.evaluation.replies import tokens, verdict_in
from realign_plugin.evaluation.settings import EvaluationSettings, server_address
from realign_plugin.evaluation.verdicts import JudgeReport, Mode, Verdict, preference_of, read_verdict, reasons

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Item", "Judge", "JudgeReport"]

MODERATION_MODEL: Final = "omni-moderation-latest"
FAILURES: Final = 3
"""So many requests in a row that cannot reach the server, each after all its retries, and no more are sent."""
CHECK_TIMEOUT: Final = 15.0
"""Seconds that ``Judge.check`` waits for a server that does not answer, at most, and once again."""
LOOK: Final = (0.05, 2.0)
"""Seconds between two looks for the verdicts that another process asks for: the first, and the longest."""


@dataclass(frozen=True)
class Request:
    """One question to the judge: its key in the cache, and its text."""

    key: str
    text: str


class Judge:
    """A judge for one run; see ``EvaluationSettings`` for what it can be told."""

    def __init__(self, settings: EvaluationSettings, *, progress: bool = True) -> None:
        """Make the judge; nothing is sent, and the cache is opened when it is first needed.

        Args:
            settings: Model, concurrency, cache and so on. Key and server come from the environment.
            progress: Whether a progress bar is drawn, on a terminal.
        """
        self.settings = settings
        self.progress = progress
        self.report = JudgeReport()
        self.client = Client(
            retries=settings.judge_retries,
            timeout=settings.judge_timeout,
            requests_per_minute=settings.judge_requests_per_minute,
        )
        self._cache: VerdictCache | None = None
        self._lost = 0

    @property
    def cache(self) -> VerdictCache:
        """The cache of verdicts."""
        if self._cache is None:
            self._cache = VerdictCache(self.settings.judge_cache)
        return self._cache

    def check(self) -> None:
        """See that the server answers, takes the key and knows the model.

        A model that the server does not list is asked for one word: some serve models under names that they do not
        list. That it is not listed is said.

        Raises:
            UserError: If it does not. A server that cannot tell (it lists no models, say) passes.
        """
        mode: Mode = "moderation" if self.settings.judge_mode == "moderation" else "harmful"
        found = in_a_loop(lambda: self._check(mode, self._model(mode)))
        if found is not None:
            raise UserError(found)

    async def _check(self, mode: Mode, model: str) -> str | None:
        async with self.client.open(retries=1, timeout=min(self.settings.judge_timeout, CHECK_TIMEOUT)):
            try:
                listed = await self.client.unlisted(model)
            except RequestError as failure:  # no list, or a key that may not see it: the first request will tell
                told = failure.gone or failure.spent or failure.status == 401
                return problem(failure, model) if told else None
            if not listed:
                return None
            try:
                await self._send(mode, model, "Answer with one word.")
                outcome = "but it answers"
            except RequestError as failure:
                if failure.final:
                    names = f"; it lists {', '.join(listed)[:200]}" if failure.status == 404 else ""
                    return problem(failure, model) + names
                outcome = f"and whether it answers cannot be told ({failure.kind})"
        print(f"realign-plugin: judge_model: {server_address()} does not list {model!r}, {outcome}", file=sys.stderr)
        return None

    def judge(self, mode: Mode, items: Sequence[Item]) -> list[Verdict]:
        """Judge answers, all at once; a server that fails leaves them unjudged, and a line says how many and why.

        Args:
            mode: ``harmful``, ``refusal`` or ``moderation`` (one answer), ``preference`` (against ``Item.reference``).
            items: The answers.

        Returns:
            A verdict for each, in order; the label is None where there is none. Empty answers are not asked about.

        Raises:
            UserError: If the cache's folder cannot be written.
        """
        plans = [self._requests(mode, item) for item in items]
        found = self._found(mode, [request for plan in plans for request in plan])
        verdicts = [self._verdict(mode, plan, found) for plan in plans]
        asked = [verdict for verdict, plan in zip(verdicts, plans, strict=True) if plan]
        missing = self.report.count_verdicts(mode, asked)
        if missing:
            print(
                f"realign-plugin: judge ({mode}): {missing.total()} of {len(asked)} answers unjudged "
                f"({reasons(missing)})",
                file=sys.stderr,
            )
        self.report.price(self.settings.judge_price_prompt, self.settings.judge_price_completion)
        return verdicts

    def _requests(self, mode: Mode, item: Item) -> list[Request]:
        parts = {
            "model": self._model(mode),
            "server": server_address(),
            "mode": mode,
            "version": prompts.VERSIONS[mode],
            "parameters": {} if mode == "moderation" else wanted(self.settings.judge_max_tokens),
        }
        both = self.settings.judge_order == "both"
        return [
            Request(key_of(prompt=text if mode == "moderation" else prompts.messages(text), **parts), text)
            for text in prompts.questions(mode, item, both=both)
        ]

    def _verdict(self, mode: Mode, plan: list[Request], found: dict[str, Verdict]) -> Verdict:
        if not plan:
            return Verdict(None, "empty answer")
        parts = [found.get(request.key, Verdict(None, "error: not sent")) for request in plan]
        return preference_of(*parts) if mode == "preference" else parts[0]

    def _found(self, mode: Mode, requests: Sequence[Request]) -> dict[str, Verdict]:
        """The verdicts by the requests' keys: from the cache, else from the server."""
        found: dict[str, Verdict] = {}
        wanted: dict[str, Request] = {}
        for request in requests:
            known = self.known(mode, request)
            if known is None:
                wanted[request.key] = request
            else:
                found[request.key] = known
        if wanted and self.report.fatal is None:
            if self.settings.judge_batch and mode != "moderation":
                from realign_plugin.evaluation.batch import run_batch

                found.update(in_a_loop(lambda: run_batch(self, mode, list(wanted.values()))))
            else:
                found.update(in_a_loop(lambda: self._ask_all(mode, list(wanted.values()))))
        return found

    def known(self, mode: Mode, request: Request) -> Verdict | None:
        """The verdict that the cache holds for a request; None also where it cannot be read (any more)."""
        verdict = read_verdict(self.cache.get(request.key), mode)
        if verdict.label is None:
            return None
        self.report.cached += 1
        return verdict

    def keep(self, mode: Mode, key: str, body: Any) -> Verdict:
        """Count what the server sent, read its verdict, and cache its text if there is one."""
        self.report.calls += 1
        self.report.prompt_tokens += tokens(body, "prompt_tokens")
        self.report.completion_tokens += tokens(body, "completion_tokens")
        verdict = verdict_in(body, mode)
        if verdict.label is not None and verdict.text is not None:
            self.cache.put(key, verdict.text)
        return verdict

    async def _ask_all(self, mode: Mode, requests: Sequence[Request]) -> dict[str, Verdict]:
        """Ask what no other process is asking; then wait for those others, no longer than one question can take."""
        gate = asyncio.Semaphore(self.settings.judge_concurrency)
        verdicts: dict[str, Verdict] = {}
        self._lost = 0
        with self._bar(mode, len(requests)) as advance:
            async with self.client.open():

                async def one(request: Request, waiting: bool) -> None:
                    async with gate:
                        if self.report.fatal is None:
                            found = await self._settle(mode, request, waiting)
                            if found is None:
                                return
                            verdicts[request.key] = found
                        advance()

                await asyncio.gather(*(one(request, True) for request in requests))
                pause, started = LOOK[0], asyncio.get_running_loop().time()
                while self.report.fatal is None and (left := [r for r in requests if r.key not in verdicts]):
                    if pause == LOOK[0]:
                        print(
                            f"realign-plugin: judge ({mode}): another process asks about {len(left)} of these "
                            "questions; waiting for its verdicts",
                            file=sys.stderr,
                        )
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, LOOK[1])
                    waiting = asyncio.get_running_loop().time() - started < self.client.patience
                    await asyncio.gather(*(one(request, waiting) for request in left))
        return verdicts

    async def _settle(self, mode: Mode, request: Request, waiting: bool) -> Verdict | None:
        """What comes of a request; None where another process is asking it, and that is waited for."""
        with self.cache.claim(request.key) as ours:
            known = self.known(mode, request)
            if known is None and (ours or not waiting):
                return await self.ask(mode, request)
            return known

    async def ask(self, mode: Mode, request: Request) -> Verdict:
        """Send one request, and note whether there is any hope for the others."""
        model = self._model(mode)
        try:
            body = await self._send(mode, model, request.text)
        except RequestError as failure:
            self._lost = self._lost + 1 if failure.gone else 0
            if self.report.fatal is None and (self._lost >= FAILURES or failure.final):
                self.report.fatal = problem(failure, model)
            return Verdict(None, failure.reason)
        self._lost = 0
        return self.keep(mode, request.key, body)

    async def _send(self, mode: Mode, model: str, text: str) -> Any:
        if mode == "moderation":
            return await self.client.moderate(model, text)
        return await self.client.complete(prompts.messages(text), model, self.settings.judge_max_tokens)

    def _model(self, mode: str) -> str:
        chosen = self.settings.judge_model
        return MODERATION_MODEL if mode == "moderation" and "moderation" not in chosen else chosen

    @contextmanager
    def _bar(self, mode: str, total: int) -> Iterator[Callable[[], None]]:
        if not (self.progress and sys.stderr.isatty()):
            yield lambda: None
            return
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"judging ({mode})", total=total)
            yield lambda: progress.advance(task)
