"""Answers of models at an OpenAI-compatible server (vLLM, say): greedy, many at once; no model is loaded here."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from realign_plugin.data.answering.chats import messages
from realign_plugin.data.answering.local import ALIGNED, FINE_TUNED
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.errors import UserError
from realign_plugin.evaluation.judging.client import Client, in_a_loop
from realign_plugin.evaluation.judging.failures import Asked, RequestError, problem
from realign_plugin.evaluation.judging.replies import answer_of
from realign_plugin.evaluation.judging.settings import URL, check_access

CONCURRENCY: Final = 32
"""Requests at once."""
RETRIES: Final = 6
TIMEOUT: Final = 300.0
"""Seconds for one try: a large model may be busy with all the others first."""
CHECK_TIMEOUT: Final = 15.0
"""Seconds for the server to list its models, for each of two tries."""
OPTIONS: Final = {ALIGNED: "--aligned-name", FINE_TUNED: "--adapter-name"}
"""By role, the option that names the model."""
NEEDED: Final = ("openai", "tenacity")


@dataclass(frozen=True)
class Server:
    """The two models at a server.

    Attributes:
        aligned: The aligned model's name there.
        fine_tuned: The fine-tuned model's.
        address: The server's; None takes ``OPENAI_BASE_URL``.
        concurrency: Requests at once.
    """

    aligned: str
    fine_tuned: str
    address: str | None = None
    concurrency: int = CONCURRENCY

    @property
    def where(self) -> str:
        """What the user gave the address with."""
        return URL if self.address is None else "--server"

    def name(self, role: str) -> str:
        """The name of the model with a role."""
        return {ALIGNED: self.aligned, FINE_TUNED: self.fine_tuned}[role]

    def check(self) -> None:
        """Check models, address and key without sending anything.

        Raises:
            UserError: If one is missing or invalid, or the client's packages are not installed.
        """
        if self.aligned == self.fine_tuned:
            raise UserError(
                f"--adapter-name: {self.fine_tuned!r} is --aligned-name as well, expected two models; name the "
                "fine-tuned one"
            )
        environ = os.environ | ({} if self.address is None else {URL: self.address})
        if not environ.get(URL):
            raise UserError(
                f"--server: not given, and {URL} is not set, expected the address of the server that has the models "
                "(http://127.0.0.1:8000/v1, say); give it"
            )
        check_access(environ, who="--server:", otherwise="", option=self.where)
        for package in NEEDED:
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"--server: {package} is not installed, expected it for requests; pip install "
                    "'realign-plugin[eval]'"
                )


def named(address: str | None, aligned: str | None, fine_tuned: str | None, concurrency: int) -> Server | None:
    """The models at a server; None where no option is about one.

    Args:
        address: ``--server``.
        aligned: ``--aligned-name``.
        fine_tuned: ``--adapter-name``.
        concurrency: Requests at once.

    Raises:
        UserError: If only some of the options are given.
    """
    given = {"--server": address, OPTIONS[ALIGNED]: aligned, OPTIONS[FINE_TUNED]: fine_tuned}
    if all(value is None for value in given.values()):
        return None
    if aligned and fine_tuned:
        return Server(aligned, fine_tuned, address, concurrency)
    missing = OPTIONS[FINE_TUNED] if aligned else OPTIONS[ALIGNED]
    first = next(option for option, value in given.items() if value is not None)
    raise UserError(
        f"{missing}: not given, expected the names of both models at the server with {first}; give it (vLLM: a NAME "
        "of --lora-modules, or of --served-model-name)"
    )


class ServerAnswerer:
    """Two models at a server, asked in the same way as the judge; see ``Client``."""

    def __init__(self, server: Server, max_tokens: int) -> None:
        """Check that both models answer.

        Args:
            server: The server.
            max_tokens: Maximum tokens that will be asked for.

        Raises:
            UserError: If the server cannot be reached, does not take the key, or lacks a model.
        """
        server.check()
        self.server = server
        self._client = Client(retries=RETRIES, timeout=TIMEOUT, address=server.address)
        in_a_loop(lambda: self._check(max_tokens))

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        """Answer prompts.

        Args:
            name: Which model answers.
            prompts: What it is asked.
            max_tokens: Maximum tokens of an answer.

        Returns:
            Answers in the order of the prompts; empty where the server cannot answer a prompt (because it is too
            long, for example), which a line on stderr reports.

        Raises:
            UserError: If the server can no longer be asked.
        """
        return in_a_loop(lambda: self._ask_all(name, prompts, max_tokens))

    async def _check(self, max_tokens: int) -> None:
        for role in OPTIONS:
            listed: list[str] = []
            async with self._client.open(retries=1, timeout=CHECK_TIMEOUT):
                try:
                    listed = await self._client.unlisted(self.server.name(role))
                except RequestError as failure:  # some servers list no models: the answers will show
                    if failure.gone or failure.spent or failure.status == 401:
                        raise UserError(self._problem(failure, role)) from None
            async with self._client.open(retries=1):
                word = Prompt("Answer with one word.")
                try:
                    await self._client.complete(messages(word), self.server.name(role), max_tokens)
                except RequestError as failure:
                    names = f"; it lists {', '.join(listed)[:200]}" if failure.status == 404 and listed else ""
                    raise UserError(self._problem(failure, role, max_tokens) + names) from None

    async def _ask_all(self, role: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        gate = asyncio.Semaphore(self.server.concurrency)
        failed: Counter[str] = Counter()

        async def one(prompt: Prompt) -> str:
            async with gate:
                try:
                    reply = await self._client.complete(messages(prompt), self.server.name(role), max_tokens)
                except RequestError as failure:
                    if failure.again or failure.final:
                        raise UserError(self._problem(failure, role)) from None
                    failed["stopped by a filter" if failure.flagged else failure.kind] += 1
                    return ""
            answer = answer_of(reply)
            if answer is None:
                failed["no answer in the reply"] += 1
            return answer or ""

        async with self._client.open():
            said = await _all(one, prompts)
        if failed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
            print(
                f"realign-plugin: {OPTIONS[role]}: {self.server.name(role)!r} does not answer {failed.total()} of "
                f"{len(prompts)} prompts ({reasons}); they are left out",
                file=sys.stderr,
            )
        return said

    def _problem(self, failure: RequestError, role: str, max_tokens: int | None = None) -> str:
        name, server = self.server.name(role), self._client.server
        if max_tokens is not None and not (failure.again or failure.final):
            return (
                f"{OPTIONS[role]}: {name!r} at {server} does not answer ({failure.kind}), expected a chat model that "
                f"can write {max_tokens} tokens; see the server's log"
            )
        then = "the same command goes on where it was"
        return problem(failure, name, Asked("--server", OPTIONS[role], self.server.where, then), server)


async def _all(one: Any, prompts: Sequence[Prompt]) -> list[str]:
    """All answers; the first failure ends the others."""
    tasks = [asyncio.create_task(one(prompt)) for prompt in prompts]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
