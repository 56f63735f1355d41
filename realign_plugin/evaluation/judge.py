"""The judge: one concurrent batch of requests to an OpenAI-compatible server, its verdicts cached on disk."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.errors import UserError
from realign_plugin.evaluation import prompts
from realign_plugin.evaluation.cache import VerdictCache, key_of
from realign_plugin.evaluation.settings import KEY, EvaluationSettings
from realign_plugin.evaluation.verdicts import Mode, Verdict, preference_of, read_verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

MODERATION_MODEL: Final = "omni-moderation-latest"
FAILURES: Final = 3
"""So many requests in a row that cannot reach the server, each after all its retries, and no more are sent."""


@dataclass(frozen=True)
class Item:
    """One answer to be judged.

    Attributes:
        id: The prompt's id.
        prompt: What was asked.
        answer: The model's answer.
        reference: The reference model's answer, for preferences.
    """

    id: str
    prompt: str
    answer: str
    reference: str | None = None


@dataclass
class JudgeReport:
    """What the judge did.

    Attributes:
        calls: Requests that were answered.
        cached: Verdicts that came from the cache.
        unjudged: Answers without a verdict.
        prompt_tokens: Tokens sent, as the server counts them.
        completion_tokens: Tokens received.
        cost: In the currency of the prices, where they are given.
        reasons: Why answers stayed unjudged.
        fatal: The one line that says why judging broke off, or None.
    """

    calls: int = 0
    cached: int = 0
    unjudged: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    fatal: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the results file."""
        return {**vars(self), "reasons": dict(self.reasons)}

    def line(self) -> str:
        """In one line."""
        text = f"{self.calls} calls, {self.cached} cached, {self.unjudged} unjudged"
        text += f", {self.prompt_tokens} + {self.completion_tokens} tokens"
        return text if self.cost is None else f"{text}, cost {self.cost:.4f}"


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
            UserError: If it does not.
        """
        model = self._model("moderation" if self.settings.judge_mode == "moderation" else "harmful")
        problem = _in_a_loop(lambda: self._check(model))
        if problem is not None:
            raise UserError(problem)

    async def _check(self, model: str) -> str | None:
        import openai

        async with _client(self.settings, retries=1) as client:
            try:
                await client.models.retrieve(model)
            except openai.NotFoundError:
                try:
                    known = [entry.id async for entry in client.models.list()]
                except openai.OpenAIError:
                    return None  # a server that lists no models: the first request will tell
                if known and model not in known:
                    return (
                        f"judge_model: {model!r} is unknown to {_server()}, expected one of {', '.join(known)[:200]}"
                    )
            except openai.OpenAIError as error:
                return _fatal(error, model)
        return None

    def judge(self, mode: Mode, items: Sequence[Item]) -> list[Verdict]:
        """Judge answers, all at once; a server that fails leaves them unjudged.

        Args:
            mode: ``harmful``, ``refusal`` or ``moderation`` (one answer), ``preference`` (against ``Item.reference``).
            items: The answers.

        Returns:
            A verdict for each, in order; the label is None where there is none.
        """
        plans = [self._requests(mode, item) for item in items]
        texts = self._texts(mode, [request for plan in plans for request in plan])
        verdicts = [self._verdict(mode, plan, texts) for plan in plans]
        for verdict in verdicts:
            if verdict.label is None:
                self.report.unjudged += 1
                self.report.reasons[verdict.reason or "unjudged"] += 1
        self._price()
        return verdicts

    def _requests(self, mode: Mode, item: Item) -> list[Request]:
        """What has to be asked about an answer; nothing where an empty answer cannot be harmful."""
        if mode in ("harmful", "moderation") and not item.answer.strip():
            return []
        match mode:
            case "harmful":
                texts = [prompts.harmful(item.prompt, item.answer)]
            case "refusal":
                texts = [prompts.refusal(item.prompt, item.answer)]
            case "moderation":
                texts = [item.answer]
            case "preference":
                reference = item.reference or ""
                texts = [prompts.preference(item.prompt, reference, item.answer)]
                if self.settings.judge_order == "both":
                    texts.append(prompts.preference(item.prompt, item.answer, reference))
        parts = {
            "model": self._model(mode),
            "server": _server(),
            "mode": mode,
            "version": prompts.VERSIONS[mode],
            "parameters": {} if mode == "moderation" else self._parameters(),
        }
        return [Request(key_of(text=text, **parts), text) for text in texts]

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

    def keep(self, mode: Mode, key: str, text: str | None) -> str | Verdict:
        """Cache a text that can be read, and give back what was said."""
        verdict = read_verdict(text, mode)
        if text is not None and verdict.label is not None:
            self.cache.put(key, text)
            return text
        return verdict

    async def _ask_all(self, mode: Mode, requests: Sequence[Request]) -> dict[str, str | Verdict]:
        gate = asyncio.Semaphore(self.settings.judge_concurrency)
        pace = _Pace(self.settings.judge_requests_per_minute)
        texts: dict[str, str | Verdict] = {}
        self._lost = 0
        with self._bar(mode, len(requests)) as advance:
            async with _client(self.settings, retries=self.settings.judge_retries) as client:

                async def one(request: Request) -> None:
                    async with gate:
                        if self.report.fatal is None:
                            await pace.wait()
                            texts[request.key] = await self._ask(client, mode, request)
                        advance()

                await asyncio.gather(*(one(request) for request in requests))
        return texts

    async def _ask(self, client: Any, mode: Mode, request: Request) -> str | Verdict:
        """One request; the client itself tries again on 408, 409, 429, 5xx and lost connections (retry-after)."""
        import openai

        model = self._model(mode)
        try:
            if mode == "moderation":
                flagged = (await client.moderations.create(model=model, input=request.text)).results[0].flagged
                self.report.calls += 1
                self._lost = 0
                return self.keep(mode, request.key, "[[harmful]]" if flagged else "[[unharmful]]")
            answer = await self._complete(client, model, request.text)
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIConnectionError):
                self._lost += 1
            gone = isinstance(error, openai.APIConnectionError) and self._lost >= FAILURES
            hopeless = isinstance(
                error, (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
            )
            if (gone or hopeless) and self.report.fatal is None:
                self.report.fatal = _fatal(error, model)
            return Verdict(None, f"error: {type(error).__name__}")
        self.report.calls += 1
        self._lost = 0
        if answer.usage is not None:
            self.report.prompt_tokens += answer.usage.prompt_tokens or 0
            self.report.completion_tokens += answer.usage.completion_tokens or 0
        if not answer.choices:
            return Verdict(None, "empty")
        return self.keep(mode, request.key, answer.choices[0].message.content)

    async def _complete(self, client: Any, model: str, text: str) -> Any:
        """A chat completion, without the parameters that the server said it does not take."""
        import openai

        while True:
            parameters = self.parameters()
            try:
                return await client.chat.completions.create(model=model, messages=messages(text), **parameters)
            except openai.BadRequestError as error:
                refused = [name for name in parameters if name in str(error)]
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

    def _price(self) -> None:
        prompt, completion = self.settings.judge_price_prompt, self.settings.judge_price_completion
        if prompt is not None and completion is not None:
            tokens = self.report.prompt_tokens * prompt + self.report.completion_tokens * completion
            self.report.cost = tokens / 1e6

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


def messages(text: str) -> list[dict[str, str]]:
    """A question as the messages of a chat."""
    return [{"role": "system", "content": prompts.SYSTEM}, {"role": "user", "content": text}]


def _client(settings: EvaluationSettings, retries: int) -> Any:
    import openai

    return openai.AsyncOpenAI(timeout=settings.judge_timeout, max_retries=retries)


def _server() -> str:
    """The server's address, without user name and password."""
    address = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}".rstrip("/")


def _fatal(error: Exception, model: str) -> str:
    """Why the judge cannot go on, in one line; never the error's own text, which may hold what was sent."""
    import openai

    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return (
            f"judge: {_server()} does not take the key in {KEY} ({type(error).__name__}), expected a valid one; set it"
        )
    if isinstance(error, openai.NotFoundError):
        return (
            f"judge_model: {model!r} is unknown to {_server()}, expected a model that it serves; correct judge_model"
        )
    return (
        f"judge: {_server()} cannot be reached ({type(error).__name__}), expected an OpenAI-compatible server; start "
        "it or correct OPENAI_BASE_URL; `realign judge` judges the samples that are left"
    )


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
