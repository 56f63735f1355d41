"""What a judge is asked with, and which of it a server does not take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from realign_plugin.evaluation.judging.failures import RequestError
from realign_plugin.evaluation.judging.replies import decode

STATUSES: Final = (400, 422, 500, 501, None)
"""The statuses with which servers refuse a parameter; None where an error inside a reply tells none."""
_CONSTANT: Final = ("temperature", "seed")
"""Parameters whose value never depends on the prompt: an error that is about one of them is one of every request."""
_NOT_TAKEN: Final = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|deprecated|extra (?:inputs?|fields?|forbidden)|"
    r"extra_forbidden|not (?:allowed|permitted|available|accepted)|no such (?:parameter|argument|field)",
    re.IGNORECASE,
)
_CODE: Final = re.compile(
    r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|invalid)_(?:parameter|value|argument|field)|extra_forbidden"
)
_OTHER_VALUE: Final = re.compile(r"must be|only (?:be|the default)|has to be|should be", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?<=[.;!?])\s+|\n")
_TEXTS: Final = ("message", "msg", "title", "reason", "description", "error_description")
_NAMES: Final = ("param", "params", "parameter", "loc", "field")
_INNER: Final = ("error", "errors", "detail", "details", "innererror", "metadata", "raw")
_RUN: Final = 3
"""So many words in a row that were sent are an echo of what was sent."""


def wanted(max_tokens: int) -> dict[str, Any]:
    """What a request is sent with, if the server takes it: the likeliest answer, of at most so many tokens."""
    return {"temperature": 0.0, "seed": 0, "max_tokens": max_tokens}


@dataclass(frozen=True)
class _Note:
    """One thing that an error says: in words, the parameters that it names as such, whether its code is a refusal."""

    text: str
    names: tuple[str, ...] = ()
    refusal: bool = False


def not_taken(failure: RequestError, parameters: Iterable[str], sent: str) -> list[str]:
    """The parameters that a server refuses as such, in whatever shape it says so.

    Args:
        failure: What came back.
        parameters: What was sent.
        sent: The prompt: what an error repeats of it says nothing about parameters.

    Returns:
        Their names. One whose value does not fit this prompt is not among them.
    """
    if failure.status not in STATUSES or (failure.status is None and not failure.inside):
        return []
    found: dict[str, None] = {}
    for note in _notes(failure.body):
        for name in parameters:
            if name in note.names and (name in _CONSTANT or note.refusal or _NOT_TAKEN.search(note.text)):
                found[name] = None
        for sentence in _SENTENCE.split(_without(note.text, sent)):
            refused = note.refusal or bool(_NOT_TAKEN.search(sentence))
            other = bool(_OTHER_VALUE.search(sentence))
            for name in parameters:
                if (refused or (other and name in _CONSTANT)) and re.search(rf"(?<!\w){name}(?!\w)", sentence):
                    found[name] = None
    return list(found)


def _notes(body: Any, depth: int = 6) -> Iterator[_Note]:
    """All that an error says in the fields where errors say something; what was sent may stand in the others."""
    if depth == 0:
        return
    if isinstance(body, str):
        inner = decode(body) if body.lstrip()[:1] in ("{", "[") else None
        if isinstance(inner, (dict, list)):
            yield from _notes(inner, depth - 1)
        else:
            yield _Note(body)
    elif isinstance(body, list):
        for part in body[:20]:
            yield from _notes(part, depth - 1)
    elif isinstance(body, dict):
        texts = [body[name] for name in _TEXTS if isinstance(body.get(name), str)]
        named = [body[name] for name in _NAMES if body.get(name)]
        words = [word for value in named for word in (value if isinstance(value, list) else [value])]
        names = tuple(word.split(".")[-1] for word in words if isinstance(word, str))
        kinds = " ".join(str(body.get(name)) for name in ("code", "type"))
        yield _Note(". ".join(texts), names, bool(_CODE.search(kinds)))
        for name in _INNER:
            if body.get(name):
                yield from _notes(body[name], depth - 1)


def _without(text: str, sent: str) -> str:
    """A text without the runs of words that stand in what was sent, too."""
    known = [word.lower() for word in re.findall(r"\w+", sent)]
    runs = {tuple(known[index : index + _RUN]) for index in range(len(known) - _RUN + 1)}
    words = list(re.finditer(r"\w+", text))
    echoed: set[int] = set()
    for index in range(len(words) - _RUN + 1):
        if tuple(word[0].lower() for word in words[index : index + _RUN]) in runs:
            echoed.update(range(index, index + _RUN))
    for index in sorted(echoed, reverse=True):
        text = f"{text[: words[index].start()]} {text[words[index].end() :]}"
    return text
