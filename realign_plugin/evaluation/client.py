"""The judge's server: requests that end in time, are sent again where that may help, and leave out what it refuses."""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from realign_plugin.evaluation import prompts
from realign_plugin.evaluation.failures import RequestError, failure_in, failure_of
from realign_plugin.evaluation.parameters import not_taken
from realign_plugin.evaluation.replies import at, decode
from realign_plugin.evaluation.settings import EvaluationSettings, server_address

LONGEST_PAUSE: Final = 60.0
"""Seconds between two tries, at most; a server that wants to be asked later than that is asked when we would."""


class Client:
    """An OpenAI-compatible server, named by the environment, which also holds the key.

    All that it raises is a ``RequestError``.
    """

    def __init__(self, settings: EvaluationSettings) -> None:
        """Make a client; nothing is sent.

        Args:
            settings: Timeout, retries, requests a minute and so on.
        """
        self.settings = settings
        self._left_out: set[str] = set()
        self._retries, self._timeout = settings.judge_retries, settings.judge_timeout

    @property
    def patience(self) -> float:
        """Seconds that one question takes at most, all its tries together."""
        tries = self.settings.judge_retries + 1
        return tries * self.settings.judge_timeout + (tries - 1) * LONGEST_PAUSE

    @asynccontextmanager
    async def open(self, retries: int | None = None, timeout: float | None = None) -> AsyncIterator[Any]:
        """Open connections for the length of the block.

        Args:
            retries: How often a request is sent again; None takes the settings'.
            timeout: Seconds for one try, from connecting to the last byte; None takes the settings'.

        Yields:
            OpenAI's own client, for files and batches.
        """
        import openai

        self._retries = self.settings.judge_retries if retries is None else retries
        self._timeout = timeout or self.settings.judge_timeout
        self._pace = _Pace(self.settings.judge_requests_per_minute)
        async with openai.AsyncOpenAI(timeout=self._timeout, max_retries=self._retries) as self._api:
            yield self._api

    async def complete(self, model: str, text: str) -> Any:
        """The decoded JSON of a chat completion; parameters that the server does not take are left out.

        They are left out of later requests only once that has helped: an error may name one for another reason.

        Raises:
            RequestError: If there is none.
        """
        messages = prompts.messages(text)
        sent = "\n".join(message["content"] for message in messages)
        left_out: set[str] = set()
        while True:
            parameters = self.parameters(left_out)
            refused = partial(not_taken, parameters=list(parameters), sent=sent)
            try:
                body = {"model": model, "messages": messages, **parameters}
                reply = await self._send("POST", "/chat/completions", body, refused)
            except RequestError as failure:
                names = refused(failure)
                if not names:
                    raise
                left_out.update(names)
                continue
            new = sorted(left_out - self._left_out)
            if new:
                self._left_out.update(new)
                print(
                    f"realign-plugin: {server_address()} does not take {', '.join(new)}; it is asked without",
                    file=sys.stderr,
                )
            return reply

    async def moderate(self, model: str, text: str) -> Any:
        """The decoded JSON of a moderation.

        Raises:
            RequestError: If there is none.
        """
        return await self._send("POST", "/moderations", {"model": model, "input": text})

    async def unlisted(self, model: str) -> list[str]:
        """The models that the server lists where the one asked for is not among them; empty where there is no telling.

        Raises:
            RequestError: If the server cannot be reached, or takes neither the key nor the question.
        """
        try:
            await self._send("GET", f"/models/{urllib.parse.quote(model, safe='')}")
            return []
        except RequestError as failure:
            if failure.status != 404:
                raise
        rows = at(await self._send("GET", "/models"), "data")
        names = [str(at(row, "id")) for row in rows] if isinstance(rows, list) else []
        return [] if model in names else names

    def parameters(self, left_out: Iterable[str] = ()) -> dict[str, Any]:
        """What a request is sent with, as far as the server takes it.

        Args:
            left_out: Names to leave out besides.
        """
        without = {*self._left_out, *left_out}
        parameters = {name: value for name, value in self.wanted().items() if name not in without}
        if "max_tokens" in without and "max_completion_tokens" not in without:
            parameters["max_completion_tokens"] = self.settings.judge_max_tokens
        return parameters

    def wanted(self) -> dict[str, Any]:
        """What a request is sent with, if the server takes it."""
        return {"temperature": 0.0, "seed": 0, "max_tokens": self.settings.judge_max_tokens}

    async def _send(
        self, method: str, path: str, body: Any = None, hopeless: Callable[[RequestError], Any] = lambda _: False
    ) -> Any:
        import tenacity

        def again(error: BaseException) -> bool:
            return isinstance(error, RequestError) and error.again and not hopeless(error)

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._retries + 1),
            wait=pause,
            retry=tenacity.retry_if_exception(again),
            reraise=True,
        )
        return await retrying(self._once, method, path, body)

    async def _once(self, method: str, path: str, body: Any) -> Any:
        """One try. The reply's bytes are read here: the client's own types take anything for valid."""
        await self._pace.wait()
        options: Any = {"max_retries": 0}
        if method == "GET":
            call = self._api.get(path, cast_to=bytes, options=options)
        else:
            call = self._api.post(path, body=body, cast_to=bytes, options=options)
        content = await in_time(call, self._timeout)
        reply = decode(content)
        failure = failure_in(reply)
        if failure is not None:
            raise failure
        return reply


async def in_time(call: Awaitable[Any], seconds: float) -> Any:
    """What a call of OpenAI's client gives.

    Args:
        call: The call.
        seconds: For all of it, also where the server sends a byte now and then.

    Raises:
        RequestError: If it gives nothing, for whatever reason: one reply that upsets the client costs no other answer.
    """
    import openai

    try:
        async with asyncio.timeout(seconds):
            return await call
    except (openai.OpenAIError, TimeoutError) as error:
        raise failure_of(error) from None
    except Exception as error:
        raise RequestError(type(error).__name__) from None


def pause(state: Any) -> float:
    """Seconds until the next try: what the server says, else twice as long each time, and never quite the same."""
    import tenacity

    after = getattr(state.outcome.exception(), "after", None)
    if after is not None and 0 < after <= LONGEST_PAUSE:
        return float(after)
    return float((tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.25))(state))


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
