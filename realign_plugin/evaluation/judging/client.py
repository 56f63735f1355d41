"""A server of models: requests that end in time, are sent again where that may help, and leave out what it refuses."""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from realign_plugin.evaluation.judging.failures import RequestError, failure_in, failure_of
from realign_plugin.evaluation.judging.guards.guard import CHAT, Question
from realign_plugin.evaluation.judging.parameters import not_taken, wanted
from realign_plugin.evaluation.judging.replies import at, decode
from realign_plugin.evaluation.judging.settings import URL, server_address

Found = TypeVar("Found")
Message = Mapping[str, str]
"""``role`` and ``content`` of one message of a chat."""
LONGEST_PAUSE: Final = 60.0
"""Seconds between two tries, at most; a server that wants to be asked later than that is asked when we would."""


class Client:
    """An OpenAI-compatible server. The environment holds the key, and the address where none is given.

    All that it raises is a ``RequestError``.

    Attributes:
        server: The address as it may be shown.
    """

    def __init__(
        self, *, retries: int, timeout: float, requests_per_minute: float | None = None, address: str | None = None
    ) -> None:
        """Make a client; nothing is sent.

        Args:
            retries: How often a request is sent again.
            timeout: Seconds for one try, from connecting to the last byte.
            requests_per_minute: How many are sent at most; None sends as many as can be.
            address: The server's; None takes the environment's.
        """
        self._address, self._usual, self._per_minute = address, (retries, timeout), requests_per_minute
        self._left_out: set[str] = set()
        self._retries, self._timeout = self._usual

    @property
    def server(self) -> str:
        """The address as it may be shown."""
        return server_address(None if self._address is None else {URL: self._address})

    @property
    def patience(self) -> float:
        """Seconds that one question takes at most, all its tries together."""
        retries, timeout = self._usual
        return (retries + 1) * timeout + retries * LONGEST_PAUSE

    @asynccontextmanager
    async def open(self, retries: int | None = None, timeout: float | None = None) -> AsyncIterator[Any]:
        """Open connections for the length of the block.

        Args:
            retries: How often a request is sent again; None takes the client's own.
            timeout: Seconds for one try, from connecting to the last byte; None takes the client's own.

        Yields:
            OpenAI's own client, for files and batches.
        """
        import openai

        self._retries = self._usual[0] if retries is None else retries
        self._timeout = timeout or self._usual[1]
        self._pace = _Pace(self._per_minute)
        made = openai.AsyncOpenAI(base_url=self._address, timeout=self._timeout, max_retries=self._retries)
        async with made as self._api:
            yield self._api

    async def complete(self, messages: Sequence[Message], model: str, max_tokens: int) -> Any:
        """The decoded JSON of a chat completion; see ``ask``.

        Args:
            messages: The chat, up to where the answer begins.
            model: The model's name at the server.
            max_tokens: Most tokens of the answer.

        Raises:
            RequestError: If there is none.
        """
        return await self.ask(Question(CHAT, {"messages": list(messages)}), model, max_tokens)

    async def ask(self, question: Question, model: str, max_tokens: int) -> Any:
        """The decoded JSON of a completion; parameters that the server does not take are left out.

        They are left out of later requests only once that has helped: an error may name one for another reason.

        Args:
            question: What is asked, and at which endpoint.
            model: The model's name at the server.
            max_tokens: Most tokens of the answer.

        Raises:
            RequestError: If there is none.
        """
        left_out: set[str] = set()
        while True:
            parameters = self.parameters(max_tokens, left_out)
            refused = partial(not_taken, parameters=list(parameters), sent=question.text)
            try:
                body = {"model": model, **question.fields, **parameters}
                reply = await self._send("POST", question.path, body, refused)
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
                    f"realign-plugin: {self.server} does not take {', '.join(new)}; it is asked without",
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
        """The models that the server lists where the one asked for is not among them; empty where that is unknown.

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

    def parameters(self, max_tokens: int, left_out: Iterable[str] = ()) -> dict[str, Any]:
        """What a request is sent with, as far as the server takes it.

        Args:
            max_tokens: Most tokens of an answer.
            left_out: Names to leave out besides.
        """
        without = {*self._left_out, *left_out}
        parameters = {name: value for name, value in wanted(max_tokens).items() if name not in without}
        if "max_tokens" in without and "max_completion_tokens" not in without:
            parameters["max_completion_tokens"] = max_tokens
        return parameters

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


def in_a_loop(make: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
    """Run a coroutine to its end, in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()
