"""The Batch API: the same questions, cheaper, within a day; a run that broke off finds its batch again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.evaluation.cache import key_of
from realign_plugin.evaluation.verdicts import Mode, Verdict

if TYPE_CHECKING:
    from realign_plugin.evaluation.judge import Judge, Request

POLL: Final = (2.0, 60.0)
"""Seconds between two looks at a batch: the first, and the longest; each is half as long again as the one before."""
OVER: Final = ("completed", "failed", "expired", "cancelled")


async def run_batch(judge: Judge, mode: Mode, requests: Sequence[Request]) -> dict[str, str | Verdict]:
    """Send requests as one batch, wait for it, and read its answers.

    The batch's id is kept in the verdict cache under the requests' own key, so that the same run, started again, waits
    for the batch that is there.

    Args:
        judge: Whose settings, cache and report are used.
        mode: What is asked.
        requests: The requests.

    Returns:
        Texts by key; a verdict in place of a text says why there is none.
    """
    import openai

    from realign_plugin.evaluation.judge import _client, _fatal

    model = judge.settings.judge_model
    note = key_of(batch=sorted(request.key for request in requests))
    async with _client(judge.settings, retries=judge.settings.judge_retries) as client:
        try:
            known = judge.cache.get(note)
            batch = await client.batches.retrieve(known) if known else await _start(client, judge, requests)
            judge.cache.put(note, batch.id)
            pause = POLL[0]
            while batch.status not in OVER:
                counts = batch.request_counts
                done = f"{counts.completed}/{counts.total}" if counts else "waiting"
                print(f"realign-plugin: batch {batch.id}: {batch.status}, {done}", file=sys.stderr)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, POLL[1])
                batch = await client.batches.retrieve(batch.id)
            lines = await _lines(client, batch)
        except openai.OpenAIError as error:
            judge.report.fatal = _fatal(error, model)
            return {request.key: Verdict(None, f"error: {type(error).__name__}") for request in requests}
    judge.cache.put(note, "")  # read to its end: what is left unjudged is asked anew
    return {request.key: _answer(judge, mode, request, lines.get(request.key), batch.status) for request in requests}


async def _start(client: Any, judge: Judge, requests: Sequence[Request]) -> Any:
    from realign_plugin.evaluation.judge import messages

    rows = [
        {
            "custom_id": request.key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": judge.settings.judge_model,
                "messages": messages(request.text),
                **judge.parameters(),
            },
        }
        for request in requests
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    file = await client.files.create(file=("judge.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def _lines(client: Any, batch: Any) -> dict[str, Any]:
    """The lines of a batch's output, by the requests' keys."""
    if not batch.output_file_id:
        return {}
    content = await client.files.content(batch.output_file_id)
    rows = (json.loads(line) for line in content.text.splitlines() if line.strip())
    return {row["custom_id"]: row for row in rows}


def _answer(judge: Judge, mode: Mode, request: Request, row: Any, status: str) -> str | Verdict:
    if row is None:
        return Verdict(None, f"error: batch {status}")
    body = (row.get("response") or {}).get("body") or {}
    if row.get("error") or not body.get("choices"):
        return Verdict(None, "error: batch line")
    judge.report.calls += 1
    usage = body.get("usage") or {}
    judge.report.prompt_tokens += usage.get("prompt_tokens", 0)
    judge.report.completion_tokens += usage.get("completion_tokens", 0)
    return judge.keep(mode, request.key, body["choices"][0]["message"].get("content"))
