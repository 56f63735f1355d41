"""The judge: one batch of requests, to a server or to a model in this process; its verdicts are cached on disk."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError, reason
from realign_plugin.evaluation.judging.cache import VerdictCache
from realign_plugin.evaluation.judging.chosen import Chosen
from realign_plugin.evaluation.judging.client import Client, in_a_loop
from realign_plugin.evaluation.judging.failures import JUDGE, Asked, RequestError, problem
from realign_plugin.evaluation.judging.formats import Request, format_of
from realign_plugin.evaluation.judging.guards.guard import PROBE, Question
from realign_plugin.evaluation.judging.prompts import Item
from realign_plugin.evaluation.judging.replies import reply_in, tokens
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.judging.verdicts import JudgeReport, Mode, Verdict, reasons
from realign_plugin.files import model_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realign_plugin.evaluation.judging.local_model import LocalModel

__all__ = ["Item", "Judge", "JudgeReport"]

LOCAL: Final = "local 2"
"""What local judges' verdicts are kept under; a new one judges everything again."""
FAILURES: Final = 3
"""So many requests in a row that cannot reach the server, each after all its retries, and no more are sent."""
JUDGE_URL: Final = Asked(where="judge_url")
LOOK: Final = (0.05, 2.0)
"""Seconds between two looks for the verdicts that another process asks for: the first, and the longest."""


def kept_under(model: str) -> str:
    """What the cache keeps a local judge's verdicts under: of a folder, its place and its files, by size and time.

    Args:
        model: A folder or a hub id.
    """
    folder = Path(model)
    if not folder.is_dir():
        return LOCAL
    place = hashlib.sha256(f"{folder.resolve()} {model_stamp(folder)}".encode())
    return f"{LOCAL} {place.hexdigest()[:16]}"


class Judge:
    """A judge for one run; see ``EvaluationSettings`` for what it can be told."""

    def __init__(self, settings: EvaluationSettings, chosen: Chosen | None = None, *, progress: bool = True) -> None:
        """Make the judge; nothing is sent or loaded, and the cache is opened when it is first needed.

        Args:
            settings: Concurrency, cache and so on. The key comes from the environment.
            chosen: Which of the settings' judges; None takes the first.
            progress: Whether a progress bar is drawn, on a terminal.
        """
        self.settings = settings
        self.chosen = chosen or settings.chosen[0]
        self.progress = progress
        self.report = JudgeReport()
        self.client = Client(
            retries=settings.judge_retries,
            timeout=settings.judge_timeout,
            requests_per_minute=settings.judge_requests_per_minute,
            address=self.chosen.address,
        )
        server = kept_under(self.chosen.model) if self.chosen.local else self.client.server
        self.format = format_of(settings, self.chosen, server)
        self._lost = 0

    @cached_property
    def cache(self) -> VerdictCache:
        """The cache of verdicts."""
        return VerdictCache(self.settings.judge_cache)

    @property
    def model(self) -> str:
        """The model that is asked; two names where moderations and questions of ours go to different ones."""
        modes: list[Mode] = [*self.report.asked] or [self.settings.judge_mode]
        return " and ".join(dict.fromkeys(self.format.model(mode) for mode in modes))

    def check(self) -> None:
        """See that the server answers, takes the key, knows the model, and takes a guard's form.

        A model that the server does not list is asked for one word: some serve models under names that they do not
        list. That it is not listed is said. A model in this process has to fit and to render the questions; the
        cache's folder has to be there to write to.

        Raises:
            UserError: If it does not. A server that cannot tell (it lists no models, say) passes.
        """
        from realign_plugin.evaluation.judging.judge_check import check_server

        self.format.prepare()
        _ = self.cache
        if self.chosen.local:
            self.local.check([request.question for request in self.format.requests("harmful", PROBE)])
            return
        found = in_a_loop(lambda: check_server(self))
        if found is not None:
            raise UserError(found)

    def problem(self, failure: RequestError, model: str, listed: Sequence[str] = ()) -> str:
        """Why the server cannot go on, in one line.

        Args:
            failure: What came back.
            model: The model that was asked.
            listed: The models that the server lists, where the one asked for is not among them.
        """
        names = f"; it lists {', '.join(listed)[:200]}" if listed and failure.status == 404 else ""
        asked = JUDGE if self.chosen.address is None else JUDGE_URL
        return problem(failure, model, asked, self.client.server) + names

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
        plans = [self.format.requests(mode, item) for item in items]
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

    def _verdict(self, mode: Mode, plan: list[Request], found: dict[str, Verdict]) -> Verdict:
        if not plan:
            return Verdict(None, "empty answer")
        parts = [found.get(request.key, Verdict(None, "error: not sent")) for request in plan]
        return self.format.verdict(mode, parts)

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
            if self.chosen.local:
                found.update(self._ask_here(mode, list(wanted.values())))
            elif self.settings.judge_batch and mode != "moderation":
                from realign_plugin.evaluation.judging.batch import run_batch

                found.update(in_a_loop(lambda: run_batch(self, mode, list(wanted.values()))))
            else:
                found.update(in_a_loop(lambda: self._ask_all(mode, list(wanted.values()))))
        return found

    def known(self, mode: Mode, request: Request) -> Verdict | None:
        """The verdict that the cache holds for a request; None also where it cannot be read (any more)."""
        text = self.cache.get(request.key)
        verdict = self.format.read(text, mode)
        if text is None or verdict.label is None:
            return None
        self.report.cached += 1
        return verdict

    def keep(self, mode: Mode, key: str, body: Any) -> Verdict:
        """Count what the server sent, read its verdict, and cache its text if there is one."""
        self.report.calls += 1
        self.report.prompt_tokens += tokens(body, "prompt_tokens")
        self.report.completion_tokens += tokens(body, "completion_tokens")
        reply = reply_in(
            body, moderation=mode == "moderation", raw=self.format.raw, reads_cut_off=self.format.reads_cut_off
        )
        verdict = reply if isinstance(reply, Verdict) else self.format.read(reply, mode)
        if verdict.label is not None and verdict.text is not None:
            self.cache.put(key, verdict.text)
        return verdict

    @cached_property
    def local(self) -> LocalModel:
        """The judge's model in this process; made when it is first needed, and loaded when it is first asked."""
        from realign_plugin.evaluation.judging.local_model import LocalModel

        return LocalModel(self.chosen.model)

    def _ask_here(self, mode: Mode, requests: Sequence[Request]) -> dict[str, Verdict]:
        """Ask the model in this process, in batches."""
        verdicts: dict[str, Verdict] = {}
        with self._bar(mode, len(requests)) as advance:
            try:
                for index, body in self.local.answer([one.question for one in requests], self.format.max_tokens):
                    verdicts[requests[index].key] = self.keep(mode, requests[index].key, body)
                    advance()
            except UserError as error:  # the answers are there: they are saved, and judged later
                self.report.fatal = str(error)
            except Exception as error:  # so with what transformers, torch or the chat template raise
                self.report.fatal = (
                    f"judge: 'local': {self.chosen.model!r} broke off ({reason(error)}), expected a verdict on each "
                    "answer; run `realign judge` on the samples, or use another judge_model"
                )
        return verdicts

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
        model = self.format.model(mode)
        try:
            body = await self.send(mode, model, request.question)
        except RequestError as failure:
            self._lost = self._lost + 1 if failure.gone else 0
            if self.report.fatal is None and (self._lost >= FAILURES or failure.final):
                self.report.fatal = self.problem(failure, model)
            return Verdict(None, failure.reason)
        self._lost = 0
        return self.keep(mode, request.key, body)

    async def send(self, mode: Mode, model: str, question: Question) -> Any:
        """The decoded JSON of what comes back. Raises ``RequestError``."""
        if mode == "moderation":
            return await self.client.moderate(model, question.text)
        return await self.client.ask(question, model, self.format.max_tokens)

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
