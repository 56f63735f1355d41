"""What a judge's server may send, and what is to come of it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What one request gets in place of an answer.

    Attributes:
        body: The body; None hangs up without a word.
        status: HTTP status.
        headers: Headers; one that is None is not sent.
        raw: Bytes that are sent in place of a whole reply.
        then: What follows: ``close`` at once, ``hang``, or ``drip`` a space every few milliseconds, both for seconds.
        before: How much of status line, headers and body is sent before that.
    """

    body: bytes | None = b""
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    raw: bytes | None = None
    then: str = ""
    before: int | None = None

    def sent(self) -> bytes:
        """The whole reply."""
        if self.raw is not None or self.body is None:
            return self.raw or b""
        length = str(len(self.body))
        headers = {"content-type": "application/json", "content-length": length, "connection": "close"} | self.headers
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join([f"HTTP/1.1 {self.status} Whatever", *lines, "", ""]).encode() + self.body


def said(content: Any = "so\n[[harmful]]", ending: Any = "stop", *, more: Any = None, **message: Any) -> bytes:
    """A chat completion as a server sends it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": ending}
    return json.dumps({"choices": [choice], **(more or {})}).encode()


def usage(text: str) -> Fault:
    return Fault(said()[:-1] + b', "usage": ' + text.encode() + b"}")


def plain(body: bytes, **headers: str | None) -> Fault:
    return Fault(body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def error(value: Any, status: int = 200) -> Fault:
    return Fault(json.dumps(value).encode(), status)


GOOD = said()
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

READ: dict[str, Fault] = {
    "no content type": plain(GOOD, content_type=None),
    "a text's content type": plain(GOOD, content_type="text/plain"),
    "a page's content type": plain(GOOD, content_type="text/html; charset=utf-8"),
    "an unknown charset": plain(GOOD, content_type="application/json; charset=nonsense"),
    "a charset that is no text": plain(GOOD, content_type="application/json; charset=hex"),
    "no length": plain(GOOD, content_length=None, connection="close"),
    "chunks": Fault(
        b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, GOOD[:9], len(GOOD) - 9, GOOD[9:]),
        headers={"content-length": None, "transfer-encoding": "chunked"},
    ),
    "gzip": plain(gzip.compress(GOOD, mtime=0), content_encoding="gzip"),
    "blanks before it": Fault(b"\n \n" + GOOD + b"\n\n"),
    "a byte order mark": Fault(b"\xef\xbb\xbf" + GOOD),
    "UTF-16": Fault(GOOD.decode().encode("utf-16")),
    "status 201": Fault(GOOD, 201),
    "parts": Fault(said([{"type": "text", "text": "so\n[[har"}, {"type": "text", "text": "mful]]"}])),
    "texts": Fault(said(["so\n", "[[harmful]]"])),
    "thinking in parts": Fault(said([{"type": "thinking", "thinking": []}, {"type": "text", "text": "[[harmful]]"}])),
    "reasoning apart": Fault(said(reasoning_content="perhaps\n[[unharmful]]")),
    "thinking that ends": Fault(said("<think>[[unharmful]]?\n</think>\n[[harmful]]")),
    "no finish reason": Fault(said(ending=None)),
    "a finish reason that is none": Fault(said(ending={"a": 1})),
    "an error of null": Fault(said(more={"error": None, "errors": []})),
    "an empty refusal": Fault(said(refusal="")),
    "an empty list of tool calls": Fault(said(tool_calls=[])),
    "half a character": Fault(said("\ud83d so\n[[harmful]]")),
    "NUL": Fault(said("\0so\n[[harmful]]\n\0\n[[harmful]]")),
    "lines of Windows": Fault(said("so\r\n[[HARMFUL]]\r\n")),
    "a long text": Fault(said("so " * 300_000 + "\n[[harmful]]")),
    "500 levels beside it": Fault(GOOD[:-1] + b', "x": ' + b"[" * 500 + b"]" * 500 + b"}"),
    "usage: text": usage('"many"'),
    "usage: a list": usage("[1, 2]"),
    "usage: null": usage("null"),
    "usage: texts": usage('{"prompt_tokens": "ten", "completion_tokens": {}}'),
    "usage: lists": usage('{"prompt_tokens": [1], "completion_tokens": null}'),
    "usage: infinite": usage('{"prompt_tokens": Infinity, "completion_tokens": -Infinity}'),
    "usage: 1e999": usage('{"prompt_tokens": 1e999, "completion_tokens": 1e300}'),
    "usage: NaN": usage('{"prompt_tokens": NaN, "completion_tokens": NaN}'),
    "usage: negative": usage('{"prompt_tokens": -5, "completion_tokens": true}'),
    "usage: 4,000 digits": usage('{"prompt_tokens": ' + "9" * 4000 + ', "completion_tokens": 0}'),
}
"""Replies that say [[harmful]], in one way or another."""

MALFORMED = "error: malformed answer"
NO_ANSWER = "error: no answer within judge_max_tokens"
LOST = "error: APIConnectionError"
LATE = "error: APITimeoutError"
UNJUDGED: dict[str, tuple[Fault, str]] = {
    # transport
    "hangs up": (Fault(None), LOST),
    "hangs up in the headers": (Fault(GOOD, before=40), LOST),
    "hangs up in the body": (Fault(GOOD, before=-9), LOST),
    "no HTTP": (Fault(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), LOST),
    "an odd status line": (Fault(raw=b"HTTP/1.1 abc OK\r\n\r\n"), LOST),
    "endless headers": (Fault(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 40_000), LOST),
    "two lengths": (Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n123"), LOST),
    "a length that is none": (plain(GOOD, content_length="many"), LOST),
    "broken chunks": (plain(b"zz\r\n", content_length=None, transfer_encoding="chunked"), LOST),
    "broken gzip": (plain(b"no gzip", content_encoding="gzip"), LOST),
    "never answers": (Fault(GOOD, before=0, then="hang"), LATE),
    "stops in the headers": (Fault(GOOD, before=30, then="hang"), LATE),
    "stops in the body": (Fault(GOOD, before=-9, then="hang"), LATE),
    "drips before it": (Fault(GOOD, headers={"content-length": "9999"}, before=-len(GOOD), then="drip"), LATE),
    "drips in the headers": (Fault(GOOD, before=30, then="drip"), LATE),
    "drips after it": (Fault(GOOD, headers={"content-length": "9999"}, then="drip"), LATE),
    "goes round in circles": (Fault(b"", 307, {"location": "/v1/chat/completions"}), LOST),
    "sends elsewhere": (Fault(b"", 307, {"location": "http://[::1"}), LOST),
    "status 304": (Fault(b"", 304, {"content-length": None}), "error: APIStatusError 304"),
    "status 400": (Fault(b"no", 400), "error: BadRequestError 400"),
    "status 400, 100,000 levels": (Fault(DEEP, 400), "error: BadRequestError 400"),
    "status 400, not UTF-8": (Fault(b'{"error": "\xff\xfe"}', 400), "error: BadRequestError 400"),
    "status 413": (Fault(b"", 413), "error: APIStatusError 413"),
    "status 422": (
        error({"detail": [{"loc": ["body"], "msg": "too long"}]}, 422),
        "error: UnprocessableEntityError 422",
    ),
    "status 429": (error({"error": {"code": "rate_limit"}}, 429), "error: RateLimitError 429"),
    "status 429, come back last century": (
        Fault(b"", 429, {"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}),
        "error: RateLimitError 429",
    ),
    "status 500": (Fault(b"<html>oops</html>", 500), "error: InternalServerError 500"),
    "status 502": (Fault(b"", 502), "error: InternalServerError 502"),
    "status 599": (Fault(b"", 599), "error: InternalServerError 599"),
    "status 400, a filter": (error({"error": {"code": "content_filter"}}, 400), "judge refused"),
    "status 403, a filter": (
        error({"error": {"code": 403, "metadata": {"flagged_input": "…"}}}, 403),
        "judge refused",
    ),
    # body
    "no body": (Fault(b""), MALFORMED),
    "status 204": (Fault(b"", 204, {"content-length": None}), MALFORMED),
    "a page": (Fault(b"<html>welcome</html>"), MALFORMED),
    "not UTF-8": (Fault(GOOD.replace(b"so", b"\xff\xfe\x80")), MALFORMED),
    "100,000 levels": (Fault(DEEP), MALFORMED),
    "100,000 levels beside it": (Fault(GOOD[:-1] + b', "x": ' + DEEP + b"}"), MALFORMED),
    "an integer of 5,000 digits": (usage('{"prompt_tokens": ' + "9" * 5000 + "}"), MALFORMED),
    "half of it": (Fault(GOOD[:-20]), MALFORMED),
    "a stream": (plain(b"data: " + GOOD + b"\n\ndata: [DONE]\n\n", content_type="text/event-stream"), MALFORMED),
    "two of them": (Fault(GOOD + b"\n" + GOOD), MALFORMED),
    "null": (Fault(b"null"), MALFORMED),
    "a number": (Fault(b"17"), MALFORMED),
    "a text": (Fault(b'"[[harmful]]"'), MALFORMED),
    "a list": (Fault(b"[" + GOOD + b"]"), MALFORMED),
    "an empty object": (Fault(b"{}"), MALFORMED),
    "choices: none": (Fault(b'{"choices": []}'), MALFORMED),
    "choices: null": (Fault(b'{"choices": null}'), MALFORMED),
    "choices: a text": (Fault(b'{"choices": "[[harmful]]"}'), MALFORMED),
    "choices: of null": (Fault(b'{"choices": [null]}'), MALFORMED),
    "a message that is a text": (Fault(b'{"choices": [{"message": "[[harmful]]"}]}'), MALFORMED),
    "a text completion": (Fault(b'{"choices": [{"text": "[[harmful]]"}]}'), MALFORMED),
    "an error that is a text": (error({"error": "no"}), "error: error inside a reply"),
    "an error beside a verdict": (Fault(said(more={"error": {"message": "no"}})), "error: error inside a reply"),
    "an error in the choice": (
        error({"choices": [{"error": {"code": 502, "message": "no"}}]}),
        "error: error inside a reply 502",
    ),
    "an error as the end": (Fault(said(ending="error")), "error: error inside a reply"),
    "a list of errors": (error([{"error": {"code": 500}}]), "error: error inside a reply 500"),
    "a detail": (error({"detail": "no"}), "error: error inside a reply"),
    "an error without a name": (
        error({"object": "error", "message": "no", "code": 40303}),
        "error: error inside a reply",
    ),
    "a 429 inside": (error({"error": {"code": 429}}), "error: error inside a reply 429"),
    "a 429 inside, in words": (error({"error": "Rate limit reached"}), "error: error inside a reply 429"),
    "a filter inside": (error({"error": {"code": "content_filter"}}), "judge refused"),
    # text
    "content: a number": (Fault(said(3)), MALFORMED),
    "content: an object": (Fault(said({"a": "[[harmful]]"})), "empty"),
    "content: numbers": (Fault(said([1, 2])), MALFORMED),
    "content: a number in a part": (Fault(said([{"type": "text", "text": 3}])), MALFORMED),
    "content: null": (Fault(said(None)), "judge refused"),
    "content: a tool call": (Fault(said(None, "tool_calls", tool_calls=[{"id": "1"}])), MALFORMED),
    "content: blank": (Fault(said(" \n\t")), "empty"),
    "reasoning alone": (Fault(said(None, reasoning_content="perhaps\n[[harmful]]")), NO_ANSWER),
    "reasoning alone, and nothing": (Fault(said("", reasoning="perhaps\n[[harmful]]")), NO_ANSWER),
    "thinking alone": (Fault(said([{"type": "thinking", "text": "[[harmful]]"}])), NO_ANSWER),
    "length, and nothing": (Fault(said(None, "length")), NO_ANSWER),
    "length": (Fault(said(ending="length")), "error: cut off at judge_max_tokens"),
    "length in capitals": (Fault(said(ending="MAX_TOKENS")), "error: cut off at judge_max_tokens"),
    "a refusal": (Fault(said(None, refusal="I cannot")), "judge refused"),
    "a refusal in parts": (Fault(said([{"type": "refusal", "refusal": "I cannot"}])), "judge refused"),
    "a filter": (Fault(said(ending="content_filter")), "judge refused"),
    "thinking without end": (Fault(said("<think>perhaps\n[[harmful]]")), "unreadable"),
    "a tag in a sentence": (Fault(said("It is not [[harmful]]")), "unreadable"),
    "a tag in parts of a sentence": (Fault(said(["It is not ", "[[harmful]]"])), "unreadable"),
    "two tags": (Fault(said("[[harmful]][[harmful]]")), "unreadable"),
    "the question's own words": (Fault(said("Last line: [[harmful]] or [[unharmful]].")), "unreadable"),
    "another mode's tag": (Fault(said("[[direct_answer]]")), "unreadable"),
}
"""Replies from which no verdict may be read, and what is said of them."""

FINAL: dict[str, tuple[Fault, str]] = {
    "status 401": (Fault(b"", 401), "does not take the key"),
    "status 402": (Fault(b"", 402), "the credit of the key in OPENAI_API_KEY is used up"),
    "status 403": (Fault(b"no", 403), "does not take the key"),
    "status 404": (error({"detail": "no"}, 404), "is unknown to"),
    "status 429, no quota": (error({"error": {"code": "insufficient_quota"}}, 429), "the credit of the key"),
    "status 429, no quota, by type": (
        error({"error": {"type": "insufficient_quota", "code": None}}, 429),
        "the credit",
    ),
    "status 400, no quota, in a list": (error([{"error": {"code": "insufficient_quota"}}], 400), "the credit"),
    "a 402 inside": (error({"error": {"code": 402, "message": "no"}}), "the credit of the key"),
    "a 401 inside": (error({"error": {"code": "invalid_api_key"}}), "does not take the key"),
    "a 404 inside": (error({"object": "error", "code": "404", "message": "no"}), "is unknown to"),
}
