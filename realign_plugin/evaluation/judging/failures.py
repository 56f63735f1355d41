"""Why a request got no answer: what the client raised, or an error inside a reply; and what follows from it."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import Any, Final

from realign_plugin.evaluation.judging.replies import at, decode
from realign_plugin.evaluation.judging.settings import KEY, server_address

GONE: Final = (502, 503, 504)
"""What a proxy answers with when the server behind it is down."""
_AGAIN: Final = (408, 409, 425, 429)
_SPENT: Final = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached", "billing_not_active")
_FLAGGED: Final = ("content_filter", "content_policy_violation", "data_inspection_failed", "moderation_blocked")
_KINDS: Final = (
    (429, r"rate.?limit|too.?many.?requests|resource.?exhausted|throttl"),
    (503, r"overloaded|unavailable"),
    (500, r"internal|server.?error|time.?out|timed.out"),
    (402, r"payment.?required"),
    (401, r"unauthenticated|authentication|invalid.?api.?key"),
    (403, r"permission.?(?:denied|error)"),
    (404, r"model.?not.?found|not_found_error"),
    (400, r"invalid|bad.?request"),
)
"""The HTTP status that an error is, by what its code, type or status is called."""
_TRANSIENT: Final = (429, 503, 500)
"""Those that a message in free text may mean as well: it may hold what was sent, and nothing ends a run for that."""


class RequestError(Exception):
    """A request without an answer.

    Attributes:
        name: What the client called it.
        status: HTTP status; of an error inside a reply, the status that it is.
        body: What the server sent, decoded where it is JSON.
        inside: Whether it stood in a reply with the HTTP status 200.
        gone: Whether the server could not be reached.
        after: Seconds after which the server wants to be asked again.
    """

    def __init__(
        self,
        name: str,
        status: int | None = None,
        body: Any = None,
        *,
        inside: bool = False,
        gone: bool = False,
        after: float | None = None,
    ) -> None:
        """Note what is known; the text is the reason alone, never what was sent."""
        self.name, self.status, self.body, self.inside, self.after = name, status, body, inside, after
        self.gone = gone or (status in GONE and not inside)
        super().__init__(self.reason)

    @property
    def kind(self) -> str:
        """Name and status."""
        return f"{self.name} {self.status}" if self.status else self.name

    @property
    def reason(self) -> str:
        """Why the answer stays unjudged."""
        return "judge refused" if self.flagged else f"error: {self.kind}"

    @property
    def spent(self) -> bool:
        """Whether there is no credit left."""
        return self.status == 402 or any(word in _SPENT for word in _titles(self.body))

    @property
    def flagged(self) -> bool:
        """Whether a filter before the judge stopped what was to be judged."""
        named = any(title in _FLAGGED for title in _titles(self.body))
        return named or any(at(head, "metadata", "flagged_input") for head in _heads(self.body))

    @property
    def again(self) -> bool:
        """Whether the same request may get an answer later."""
        if self.spent or self.flagged:
            return False
        return self.gone or self.status in _AGAIN or (self.status or 0) >= 500

    @property
    def final(self) -> bool:
        """Whether every other request would fail in the same way."""
        return not self.flagged and (self.spent or self.status in (401, 403, 404))


def failure_of(error: Exception) -> RequestError:
    """What the client raised, as a failure."""
    import openai

    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None)
    body = None
    if response is not None:
        body = decode(response.content)
        body = response.content.decode("utf-8", "replace") if body is None else body
    gone = isinstance(error, (openai.APIConnectionError, TimeoutError))
    name = "APITimeoutError" if isinstance(error, TimeoutError) else type(error).__name__
    return RequestError(name, status, body, gone=gone, after=_after(getattr(response, "headers", {})))


def failure_in(body: Any) -> RequestError | None:
    """The error in a reply with the HTTP status 200, in whatever shape; None where there is none."""
    top = at(body, 0) if isinstance(body, list) else body
    if not isinstance(top, dict):
        return None
    error = top.get("error") or top.get("errors") or at(top, "choices", 0, "error")
    if not error and str(at(top, "choices", 0, "finish_reason")).lower() == "error":
        error = "broken off"
    if not error and not top.get("choices") and not top.get("results"):
        named = "error" in (top.get("object"), top.get("type"))
        said = top.get("detail") or any(isinstance(top.get(name), str) and top[name] for name in ("message", "msg"))
        error = top if named or said else None
    return RequestError("error inside a reply", _status(body), body, inside=True) if error else None


@dataclass(frozen=True)
class Asked:
    """How a user knows what a server is asked for.

    Attributes:
        who: What is asked.
        option: The option that names the model.
        where: What holds the address.
        then: What can be done once the server is there again.
    """

    who: str = "judge"
    option: str = "judge_model"
    where: str = "OPENAI_BASE_URL"
    then: str = "`realign judge` judges the samples that are left"


JUDGE: Final = Asked()


def problem(failure: RequestError, model: str, asked: Asked = JUDGE, address: str | None = None) -> str:
    """Why a server cannot go on, in one line; never its own words, which may hold what was sent.

    Args:
        failure: What came back.
        model: The model that was asked.
        asked: How the user knows it.
        address: The server's, as it may be shown; None takes the environment's.
    """
    server = server_address() if address is None else address
    if failure.spent:
        return (
            f"{asked.who}: the credit of the key in {KEY} is used up at {server} ({failure.kind}), expected one that "
            "has some left; add credit or set another key"
        )
    if failure.status in (401, 403):
        return f"{asked.who}: {server} does not take the key in {KEY} ({failure.kind}), expected a valid one; set it"
    if failure.status == 404:
        return (
            f"{asked.option}: {model!r} is unknown to {server}, expected a model that it serves; correct it, or "
            f"{asked.where} (most end in /v1)"
        )
    return (
        f"{asked.who}: {server} cannot be reached ({failure.kind}), expected an OpenAI-compatible server; start it or "
        f"correct {asked.where}; {asked.then}"
    )


def _heads(body: Any) -> list[Any]:
    """Where a body tells what kind of error it is: the error itself, and what holds it."""
    top = at(body, 0) if isinstance(body, list) else body
    inner = at(top, "error") or at(top, "errors", 0) or at(top, "choices", 0, "error") or at(top, "detail")
    return [inner, top]


def _titles(body: Any) -> list[str]:
    """Code, type and status of an error, in lower case."""
    values = [at(head, name) for head in _heads(body) for name in ("code", "type", "status")]
    return [value.lower() for value in values if isinstance(value, str)]


def _status(body: Any) -> int | None:
    heads = _heads(body)
    for head in heads:
        for name in ("code", "status", "status_code"):
            value = at(head, name)
            number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{3}", value) else value
            if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
                return number
    titles = " ".join(_titles(body))
    for status, words in _KINDS:
        if re.search(words, titles):
            return status
    said = [head if isinstance(head, str) else at(head, "message") for head in heads]
    text = " ".join(word.lower() for word in said if isinstance(word, str))
    return next((status for status, words in _KINDS if status in _TRANSIENT and re.search(words, text)), None)


def _after(headers: Any) -> float | None:
    """Seconds in a ``retry-after`` header, which holds seconds or a date."""
    text = headers.get("retry-after") or ""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
