"""The judge: one concurrent batch of requests to an OpenAI-compatible server, its verdicts cached on disk."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation import prompts
from realign_plugin.evaluation.cache import VerdictCache, key_of
from realign_plugin.evaluation.prompts import Item
from realign_plugin.evaluation.settings import KEY, EvaluationSettings, server_address
from realign_plugin.evaluation.verdicts import (
    JudgeReport,
    Mode,
    Verdict,
    preference_of,
    read_verdict,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Item", "Judge", "JudgeReport"]

MODERATION_MODEL: Final = "omni-moderation-latest"
FAILURES: Final = 3
"""So many requests in a row that cannot reach the server, each after all its retries, and no more are sent."""
CHECK_TIMEOUT: Final = 15.0
"""Seconds that ``Judge.check`` waits for a server that does not answer, at most, and once again."""
GONE: Final = (502, 503, 504)
"""What a proxy answers with when the server behind it is down."""
_NOT_TAKEN: Final = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not (?:allowed|permitted)", re.IGNORECASE
)


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
        self._cache: VerdictCache | None = None
        self._dropped: set[str] = set()
        self._lost = 0

    @property
    def cache(self) -> VerdictCache:
        """The cache of verdicts."""
        if self._cache is None:
            self._cache = VerdictCache(self.settings.judge_cache)
        return self._cache

    def check(self) -> None:
        """See that the server answers, takes the key and knows the model, without asking it for a verdict.

        Raises:
            UserError: If it does not. A server that cannot tell (it lists no models, say) passes.
        """
        model = self._model("moderation" if self.settings.judge_mode == "moderation" else "harmful")
        problem = _in_a_loop(lambda: self._check(model))
        if problem is not None:
            raise UserError(problem)

    async def _check(self, model: str) -> str | None:
        import openai

        async with self.client(retries=1, timeout=min(self.settings.judge_timeout, CHECK_TIMEOUT)) as client:
            try:
                try:
                    await client.models.with_raw_response.retrieve(model)
                    return None
                except openai.NotFoundError:
                    listed = _json(await client.models.with_raw_response.list())
            except (openai.AuthenticationError, openai.APIConnectionError) as error:
                return self.problem(error, model)
            except openai.OpenAIError:
                return None  # no list, or a key that may not see it: the first request will tell
        rows = listed.get("data") if isinstance(listed, dict) else None
        known = [str(row.get("id")) for row in rows or [] if isinstance(row, dict)]
        if not known or model in known:
            return None
        return f"judge_model: {model!r} is unknown to {server_address()}, expected one of {', '.join(known)[:200]}"

    def judge(self, mode: Mode, items: Sequence[Item]) -> list[Verdict]:
        """Judge answers, all at once; a server that fails leaves them unjudged.

        Args:
            mode: ``harmful``, ``refusal`` or ``moderation`` (one answer), ``preference`` (against ``Item.reference``).
            items: The answers.

        Returns:
            A verdict for each, in order; the label is None where there is none.

        Raises:
            UserError: If the cache's folder cannot be written.
        """
        plans = [self._requests(mode, item) for item in items]
        texts = self._texts(mode, [request for plan in plans for request in plan])
        verdicts = [self._verdict(mode, plan, texts) for plan in plans]
        self.report.count_verdicts(verdicts)
        self.report.price(self.settings.judge_price_prompt, self.settings.judge_price_completion)
        return verdicts

    def _requests(self, mode: Mode, item: Item) -> list[Request]:
        parts = {
            "model": self._model(mode),
            "server": server_address(),
            "mode": mode,
            "version": prompts.VERSIONS[mode],
            "parameters": {} if mode == "moderation" else self._parameters(),
        }
        both = self.settings.judge_order == "both"
        return [
            Request(key_of(prompt=text if mode == "moderation" else prompts.messages(text), **parts), text)
            for text in prompts.questions(mode, item, both=both)
        ]

    def _verdict(self, mode: Mode, plan: list[Request], texts: dict[str, str | Verdict]) -> Verdict:
        if not plan:
            return Verdict("unharmful")
        found = [texts.get(request.key, Verdict(None, "error: not sent")) for request in plan]
        read = [part if isinstance(part, Verdict) else read_verdict(part, mode) for part in found]
        return preference_of(*read) if mode == "preference" else read[0]

    def _texts(self, mode: Mode, requests: Sequence[Request]) -> dict[str, str | Verdict]:
        """The judge's texts by key: from the cache, else from the server; a verdict in a text's place says why not."""
        texts: dict[str, str | Verdict] = {}
        wanted: dict[str, Request] = {}
        for request in requests:
            known = self.cache.get(request.key)
            if known is not None:
                texts[request.key] = known
                self.report.cached += 1
            else:
                wanted[request.key] = request
        if wanted and self.report.fatal is None:
            if self.settings.judge_batch and mode != "moderation":
                from realign_plugin.evaluation.batch import run_batch

                texts.update(_in_a_loop(lambda: run_batch(self, mode, list(wanted.values()))))
            else:
                texts.update(_in_a_loop(lambda: self._ask_all(mode, list(wanted.values()))))
        return texts

    def keep(self, mode: Mode, key: str, body: Any) -> str | Verdict:
        """Count what the server sent, cache its text if a verdict can be read from it, and give it back."""
        self.report.count_answer(body)
        text = text_of(body, mode)
        if isinstance(text, Verdict):
            return text
        verdict = read_verdict(text, mode)
        if verdict.label is None:
            return verdict
        self.cache.put(key, text)
        return text

    async def _ask_all(self, mode: Mode, requests: Sequence[Request]) -> dict[str, str | Verdict]:
        gate = asyncio.Semaphore(self.settings.judge_concurrency)
        pace = _Pace(self.settings.judge_requests_per_minute)
        texts: dict[str, str | Verdict] = {}
        self._lost = 0
        with self._bar(mode, len(requests)) as advance:
            async with self.client(retries=self.settings.judge_retries) as client:

                async def one(request: Request) -> None:
                    async with gate:
                        if self.report.fatal is None:
                            await pace.wait()
                            texts[request.key] = await self.ask(client, mode, request)
                        advance()

                await asyncio.gather(*(one(request) for request in requests))
        return texts

    async def ask(self, client: Any, mode: Mode, request: Request) -> str | Verdict:
        """Send one request.

        The client itself tries again on 408, 409, 429, 5xx and lost connections, and waits as long as the server's
        retry-after says: a second loop of retries around its own would only multiply the two.
        """
        import openai

        model = self._model(mode)
        try:
            if mode == "moderation":
                body = _json(await client.moderations.with_raw_response.create(model=model, input=request.text))
            else:
                body = await self._complete(client, model, request.text)
        except openai.OpenAIError as error:
            status = getattr(error, "status_code", None)
            gone = isinstance(error, openai.APIConnectionError) or status in GONE
            self._lost = self._lost + 1 if gone else 0
            spent = getattr(error, "code", None) == "insufficient_quota"
            if self.report.fatal is None and (self._lost >= FAILURES or spent or status in (401, 403, 404)):
                self.report.fatal = self.problem(error, model)
            return Verdict(None, f"error: {type(error).__name__}" + (f" {status}" if status else ""))
        self._lost = 0
        return self.keep(mode, request.key, body)

    async def _complete(self, client: Any, model: str, text: str) -> Any:
        """The JSON of a chat completion, without the parameters that the server said it does not take.

        It is posted as it is: ``chat.completions.create`` would first walk through the types that messages may have,
        a fifth of the client's own time.
        """
        import openai

        while True:
            parameters = self.parameters()
            body = {"model": model, "messages": prompts.messages(text), **parameters}
            try:
                return await client.post("/chat/completions", body=body, cast_to=object)
            except json.JSONDecodeError:
                return None
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = _not_taken(error, parameters)
                if not refused:
                    raise
                self._dropped.update(refused)

    def parameters(self) -> dict[str, Any]:
        """What a request is sent with, as far as the server takes it."""
        parameters = {name: value for name, value in self._parameters().items() if name not in self._dropped}
        if "max_tokens" in self._dropped and "max_completion_tokens" not in self._dropped:
            parameters["max_completion_tokens"] = self.settings.judge_max_tokens
        return parameters

    def _parameters(self) -> dict[str, Any]:
        return {"temperature": 0.0, "seed": 0, "max_tokens": self.settings.judge_max_tokens}

    def _model(self, mode: str) -> str:
        chosen = self.settings.judge_model
        return MODERATION_MODEL if mode == "moderation" and "moderation" not in chosen else chosen

    def client(self, retries: int, timeout: float | None = None) -> Any:
        """A client of the server that the environment names, which is also where it finds its key."""
        import openai

        return openai.AsyncOpenAI(timeout=timeout or self.settings.judge_timeout, max_retries=retries)

    def problem(self, error: Exception, model: str) -> str:
        """Why the judge cannot go on, in one line; never the error's own text, which may hold what was sent."""
        status = getattr(error, "status_code", None)
        kind = f"{type(error).__name__} {status}" if status else type(error).__name__
        server = server_address()
        if getattr(error, "code", None) == "insufficient_quota":
            return (
                f"judge: the quota of the key in {KEY} is used up at {server}, expected one that has some left; set it"
            )
        if status in (401, 403):
            return f"judge: {server} does not take the key in {KEY} ({kind}), expected a valid one; set it"
        if status == 404:
            return (
                f"judge_model: {model!r} is unknown to {server}, expected a model that it serves; correct it, or "
                "OPENAI_BASE_URL (most end in /v1)"
            )
        return (
            f"judge: {server} cannot be reached ({kind}), expected an OpenAI-compatible server; start it or correct "
            "OPENAI_BASE_URL; `realign judge` judges the samples that are left"
        )

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


class _Pace:
    """Lets through no more than so many requests a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for one's turn."""
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next)
        self._next = turn + self._gap
        await asyncio.sleep(turn - now)


def _json(reply: Any) -> Any:
    """The JSON that a server sent; None where it is none. Read raw: the client's own types take anything for valid."""
    try:
        return json.loads(reply.http_response.content)
    except ValueError:
        return None


def _not_taken(error: Any, parameters: dict[str, Any]) -> list[str]:
    """The parameters that a server refuses as such; one whose value does not fit this prompt is not among them."""
    if error.code in ("unsupported_parameter", "unsupported_value", "unknown_parameter"):
        named = [name for name in parameters if name == error.param]
        if named:
            return named
    text = str(error)
    if not _NOT_TAKEN.search(text):
        return []
    return [name for name in parameters if re.search(rf"\b{name}\b", text)]


def _in_a_loop(make: Callable[[], Any]) -> Any:
    """Run a coroutine to its end, in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    result: list[Any] = []

    def run() -> None:
        try:
            result.append((asyncio.run(make()), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, raised = result[0]
    if raised is not None:
        raise raised
    return value
