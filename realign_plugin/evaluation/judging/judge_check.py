"""What is seen of a judge's server before anything slow: address, key, model, and whether it takes a guard's form."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from realign_plugin.evaluation.judging import prompts
from realign_plugin.evaluation.judging.failures import RequestError
from realign_plugin.evaluation.judging.guards.guard import CHAT, PROBE, Question

if TYPE_CHECKING:
    from realign_plugin.evaluation.judging.judge import Judge
    from realign_plugin.evaluation.judging.verdicts import Mode

TIMEOUT: Final = 15.0
"""Seconds to wait for a server that does not answer, at most, and once again."""
GUARD_TIMEOUT: Final = 60.0
"""The same for a guard's first verdict, which may load the model."""


async def check_server(judge: Judge) -> str | None:
    """Why a judge's server cannot judge, in one line; None where it can, or cannot tell.

    Args:
        judge: The judge; a guard's verdict on a harmless exchange is kept in its cache.
    """
    mode: Mode = "moderation" if judge.settings.judge_mode == "moderation" else "harmful"
    model = judge.format.model(mode)
    longest = TIMEOUT if judge.chosen.guard is None else GUARD_TIMEOUT
    async with judge.client.open(retries=1, timeout=min(judge.settings.judge_timeout, longest)):
        try:
            listed = await judge.client.unlisted(model)
        except RequestError as failure:  # no list, or a key that may not see it: the first request will tell
            if failure.gone or failure.spent or failure.status == 401:
                return judge.problem(failure, model)
            listed = []
        if judge.chosen.guard is not None:
            return await _probe(judge, model, listed)
        if not listed:
            return None
        try:
            await judge.send(mode, model, Question(CHAT, {"messages": prompts.messages("Answer with one word.")}))
            outcome = "but it answers"
        except RequestError as failure:
            if failure.final:
                return judge.problem(failure, model, listed)
            outcome = f"and whether it answers cannot be told ({failure.kind})"
    print(f"realign-plugin: judge_model: {judge.client.server} does not list {model!r}, {outcome}", file=sys.stderr)
    return None


async def _probe(judge: Judge, model: str, listed: list[str]) -> str | None:
    """Put a harmless exchange in the guard's form."""
    request = judge.format.requests("harmful", PROBE)[0]
    if judge.format.read(judge.cache.get(request.key), "harmful").label is not None:
        return None
    path, name, server = request.question.path, judge.chosen.name, judge.client.server
    try:
        body = await judge.send("harmful", model, request.question)
    except RequestError as failure:
        if path != CHAT and failure.status in (404, 405, 501) and not listed:
            return (
                f"judge: {name!r} needs /v1{path}, which {server} does not offer ({failure.kind}), expected a server "
                "that takes raw prompts; serve the guard with vLLM or llama.cpp, or use judge: local"
            )
        if failure.status in (400, 422):
            return (
                f"judge: {server} refuses the form of {name!r} ({failure.kind}), expected a server that takes the "
                "user's and the assistant's turn and arguments of the chat template; serve the guard with vLLM or "
                "llama.cpp, or use judge: local"
            )
        return judge.problem(failure, model, listed) if failure.gone or failure.final else None
    verdict = judge.keep("harmful", request.key, body)
    if verdict.label is None:
        print(
            f"realign-plugin: judge: {model!r} did not answer a harmless exchange in the form of {name!r} "
            f"({verdict.reason}); is it that guard?",
            file=sys.stderr,
        )
    return None
