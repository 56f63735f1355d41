"""The Batch API: the same questions, cheaper, within a day; a run that broke off finds its batch again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.evaluation.judging.cache import key_of
from realign_plugin.evaluation.judging.client import in_time
from realign_plugin.evaluation.judging.failures import RequestError, failure_in
from realign_plugin.evaluation.judging.replies import at, decode
from realign_plugin.evaluation.judging.verdicts import Mode, Verdict

if TYPE_CHECKING:
    from realign_plugin.evaluation.judging.formats import Request
    from realign_plugin.evaluation.judging.judge import Judge

POLL: Final = (2.0, 60.0)
"""Seconds between two looks at a batch: the first, and the longest; each is half as long again as the one before."""
CALL: Final = 600.0
"""Seconds for one call, which may carry a file of all questions or answers."""
OVER: Final = ("completed", "failed", "expired", "cancelled")


async def run_batch(judge: Judge, mode: Mode, requests: Sequence[Request]) -> dict[str, Verdict]:
    """Send requests as one batch, wait for it, and read its answers.

    The first request of a new batch is asked by itself: a wrong key, an unknown model or a parameter that the model
    does not take would otherwise be found out only when the batch is over. The batch's id is kept in the verdict cache
    under its requests' own key, so that the same run, started again, waits for the batch that is there; so does
    another process with the same requests.

    Args:
        judge: Whose settings, cache and report are used.
        mode: What is asked.
        requests: The requests.

    Returns:
        Verdicts by key.
    """
    verdicts: dict[str, Verdict] = {}
    ordered = sorted(requests, key=lambda request: request.key)
    async with judge.client.open() as api:
        try:
            async with _turn(judge, _note(ordered)):
                for request in ordered:
                    known = judge.known(mode, request)
                    if known is not None:
                        verdicts[request.key] = known
                ordered = [request for request in ordered if request.key not in verdicts]
                if ordered and not judge.cache.get(_note(ordered)):
                    first, *ordered = ordered
                    verdicts[first.key] = await judge.ask(mode, first)
                if judge.report.fatal or not ordered:
                    return verdicts
                note = _note(ordered)
                batch = await _found(api, judge.cache.get(note)) or await _start(api, judge, ordered)
                judge.cache.put(note, batch.id)
            batch = await _wait(api, batch)
            rows = await _rows(api, batch)
        except RequestError as failure:
            judge.report.fatal = _problem(judge, failure)
            return verdicts | {request.key: Verdict(None, failure.reason) for request in ordered}
    judge.cache.put(note, "")  # read to its end: what is left unjudged is asked again
    for request in ordered:
        verdicts[request.key] = _answer(judge, mode, request, rows.get(request.key), batch.status)
    return verdicts


@asynccontextmanager
async def _turn(judge: Judge, note: str) -> AsyncIterator[None]:
    """Wait while another process starts the same batch, no longer than it can take to ask one question."""
    started, pause = asyncio.get_running_loop().time(), POLL[0] / 10
    while True:
        late = asyncio.get_running_loop().time() - started > judge.client.patience
        with judge.cache.claim(note) as ours:
            if ours or late:
                yield
                return
        await asyncio.sleep(pause)


def _note(requests: Sequence[Request]) -> str:
    return key_of(batch=[request.key for request in requests])


async def _call(call: Awaitable[Any]) -> Any:
    """A batch, or a file, that the server tells of.

    Raises:
        RequestError: If it tells of none.
    """
    found = await in_time(call, CALL)
    if not isinstance(getattr(found, "id", None), str):
        raise RequestError("malformed answer")
    return found


async def _found(api: Any, known: str | None) -> Any:
    """The batch of a run that broke off; None where there is none, or the server has forgotten it."""
    try:
        return await _call(api.batches.retrieve(known)) if known else None
    except RequestError as failure:
        if failure.status != 404:
            raise
        return None


async def _start(api: Any, judge: Judge, requests: Sequence[Request]) -> Any:
    rows = [
        {
            "custom_id": request.key,
            "method": "POST",
            "url": f"/v1{request.question.path}",
            "body": {
                "model": judge.chosen.model,
                **request.question.fields,
                **judge.client.parameters(judge.format.max_tokens),
            },
        }
        for request in requests
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file = await _call(api.files.create(file=("judge.jsonl", content), purpose="batch"))
    endpoint = f"/v1{requests[0].question.path}"
    return await _call(api.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h"))


async def _wait(api: Any, batch: Any) -> Any:
    """Look at a batch until it is over; a line on stderr says when something has changed."""
    pause, last = POLL[0], ""
    while batch.status not in OVER:
        if not isinstance(batch.status, str):
            raise RequestError("malformed answer")
        done, total = (getattr(batch.request_counts, name, None) for name in ("completed", "total"))
        line = f"batch {batch.id}: {batch.status}, {'waiting' if total is None else f'{done}/{total}'}"
        if line != last:
            print(f"realign-plugin: {line}", file=sys.stderr)
            last = line
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, POLL[1])
        batch = await _call(api.batches.retrieve(batch.id))
    return batch


async def _rows(api: Any, batch: Any) -> dict[str, Any]:
    """The lines of a batch's output and of its errors, by the requests' keys; what is not JSON is left out."""
    rows: dict[str, Any] = {}
    for name in (batch.error_file_id, batch.output_file_id):
        if not name:
            continue
        content = await in_time(api.files.content(name), CALL)
        for line in content.content.split(b"\n"):
            row = decode(line)
            if isinstance(row, dict):
                rows[str(row.get("custom_id"))] = row
    return rows


def _answer(judge: Judge, mode: Mode, request: Request, row: Any, status: str) -> Verdict:
    if row is None:
        return Verdict(None, f"error: batch {status}")
    body = at(row, "response", "body")
    failed = at(row, "response", "status_code")
    if row.get("error") or failed not in (None, 200) or failure_in(body) is not None:
        return Verdict(None, f"error: batch line {failed}" if isinstance(failed, int) else "error: batch line")
    return judge.keep(mode, request.key, body)


def _problem(judge: Judge, failure: RequestError) -> str:
    """Why the batch cannot be had, in one line."""
    if failure.gone or failure.spent or failure.status in (401, 403):
        return judge.problem(failure, judge.chosen.model)
    return (
        f"judge_batch: {judge.client.server} did not take the batch ({failure.kind}), expected a server with the "
        "Batch API; leave judge_batch out"
    )
