"""The Batch API: the same questions, cheaper, within a day; a run that broke off finds its batch again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.evaluation import prompts
from realign_plugin.evaluation.cache import key_of
from realign_plugin.evaluation.settings import server_address
from realign_plugin.evaluation.verdicts import Mode, Verdict

if TYPE_CHECKING:
    from realign_plugin.evaluation.judge import Judge, Request

POLL: Final = (2.0, 60.0)
"""Seconds between two looks at a batch: the first, and the longest; each is half as long again as the one before."""
OVER: Final = ("completed", "failed", "expired", "cancelled")


async def run_batch(judge: Judge, mode: Mode, requests: Sequence[Request]) -> dict[str, str | Verdict]:
    """Send requests as one batch, wait for it, and read its answers.

    The first request of a new batch is asked by itself: a wrong key, an unknown model or a parameter that the model
    does not take would otherwise be found out only when the batch is over. The batch's id is kept in the verdict cache
    under its requests' own key, so that the same run, started again, waits for the batch that is there.

    Args:
        judge: Whose settings, cache and report are used.
        mode: What is asked.
        requests: The requests.

    Returns:
        Texts by key; a verdict in place of a text says why there is none.
    """
    import openai

    texts: dict[str, str | Verdict] = {}
    ordered = sorted(requests, key=lambda request: request.key)
    async with judge.client(retries=judge.settings.judge_retries) as client:
        if not judge.cache.get(_note(ordered)):
            first, *ordered = ordered
            texts[first.key] = await judge.ask(client, mode, first)
            if judge.report.fatal or not ordered:
                return texts
        note = _note(ordered)
        try:
            batch = await _found(client, judge.cache.get(note)) or await _start(client, judge, ordered)
            judge.cache.put(note, batch.id)
            batch = await _wait(client, batch)
            rows = await _rows(client, batch)
        except openai.OpenAIError as error:
            judge.report.fatal = _problem(judge, error)
            return texts | {request.key: Verdict(None, f"error: {type(error).__name__}") for request in ordered}
    judge.cache.put(note, "")  # read to its end: what is left unjudged is asked anew
    for request in ordered:
        texts[request.key] = _answer(judge, mode, request, rows.get(request.key), batch.status)
    return texts


def _note(requests: Sequence[Request]) -> str:
    return key_of(batch=[request.key for request in requests])


async def _found(client: Any, known: str | None) -> Any:
    """The batch of a run that broke off; None where there is none, or the server has forgotten it."""
    import openai

    try:
        return await client.batches.retrieve(known) if known else None
    except openai.NotFoundError:
        return None


async def _start(client: Any, judge: Judge, requests: Sequence[Request]) -> Any:
    rows = [
        {
            "custom_id": request.key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": judge.settings.judge_model,
                "messages": prompts.messages(request.text),
                **judge.parameters(),
            },
        }
        for request in requests
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file = await client.files.create(file=("judge.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def _wait(client: Any, batch: Any) -> Any:
    """Look at a batch until it is over; a line on stderr says when something has changed."""
    pause, last = POLL[0], ""
    while batch.status not in OVER:
        counts = batch.request_counts
        line = f"batch {batch.id}: {batch.status}, {f'{counts.completed}/{counts.total}' if counts else 'waiting'}"
        if line != last:
            print(f"realign-plugin: {line}", file=sys.stderr)
            last = line
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, POLL[1])
        batch = await client.batches.retrieve(batch.id)
    return batch


async def _rows(client: Any, batch: Any) -> dict[str, Any]:
    """The lines of a batch's output and of its errors, by the requests' keys; lines that are no JSON are left out."""
    rows: dict[str, Any] = {}
    for name in (batch.error_file_id, batch.output_file_id):
        if not name:
            continue
        content = await client.files.content(name)
        for line in content.content.decode("utf-8", "replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows[str(row.get("custom_id"))] = row
    return rows


def _answer(judge: Judge, mode: Mode, request: Request, row: Any, status: str) -> str | Verdict:
    if row is None:
        return Verdict(None, f"error: batch {status}")
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        return Verdict(None, "error: batch line")
    if response.get("status_code", 200) != 200:
        return Verdict(None, f"error: batch line {response['status_code']}")
    return judge.keep(mode, request.key, response.get("body"))


def _problem(judge: Judge, error: Exception) -> str:
    """Why the batch cannot be had, in one line."""
    status = getattr(error, "status_code", None)
    if status is None or status in (401, 403):
        return judge.problem(error, judge.settings.judge_model)
    return (
        f"judge_batch: {server_address()} did not take the batch ({type(error).__name__} {status}), expected a server "
        "with the Batch API; leave judge_batch out"
    )
