"""JSON files as a crash, an editor or another program leaves them: one part changed, or the text itself."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError

ODD: list[Any] = [
    None, True, 0, -1, 7, 10**18, 10**200, 0.5, -0.5, 1e308, math.nan, math.inf, "", "N/A", "[/red]", "a=b,c", [], {},
    [[]], [None], {"a": 1}, {"": {}}, ["all"], [["x"] * 3], "\ud800", "x" * 500, [1, "a", None],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def mutated(value: Any, draw: random.Random) -> str:
    """JSON text of the value with one part replaced, left out, renamed or spoiled."""
    copy = json.loads(json.dumps(value))
    path = draw.choice([path for path in places(copy) if path])
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    match draw.randrange(8):
        case 0:
            del parent[path[-1]]
        case 1 if isinstance(parent, dict):
            parent[draw.choice(["", "acc,none", "[red]", "\ud800", "a\u2028b"])] = parent.pop(path[-1])
        case 2:
            parent[path[-1]] = [parent[path[-1]]]
        case _:
            parent[path[-1]] = draw.choice(ODD)
    text = json.dumps(copy, ensure_ascii=draw.random() < 0.5)
    match draw.randrange(12):
        case 0:
            at = draw.randrange(len(text))
            return text[:at]
        case 1:
            at = draw.randrange(len(text))
            return text[:at] + draw.choice(['"', "{", "]", ",", "\x00", "é", "9" * 5000, "[" * 100_000]) + text[at:]
    return text


def save(path: Path, text: str, draw: random.Random) -> None:
    path.write_bytes(text.encode(draw.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass"))


def refusal(action: Callable[[], object], text: str) -> str | None:
    """The message of the project's error, None where there is none; any other error is raised, with the text."""
    try:
        action()
    except UserError as error:
        return str(error)
    except Exception as error:
        error.add_note(text[:3000])
        raise
    return None
