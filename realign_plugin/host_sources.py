"""The source files of installed hosts, read without importing them: importing takes up to ten seconds."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from realign_plugin.errors import check_choice


def host_files(package: str, *patterns: str) -> list[Path]:
    """Files of an installed package, by patterns relative to it; empty where it is not installed.

    Args:
        package: Its name.
        *patterns: As for ``Path.glob``, e.g. ``hparams/*_args.py``.
    """
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or []) if found is not None else []
    return [file for place in places[:1] for pattern in patterns for file in sorted(Path(place).glob(pattern))]


def nodes(files: Iterable[Path]) -> Iterator[ast.AST]:
    """All nodes of the files' syntax trees."""
    for file in files:
        yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def texts_of_calls(files: Iterable[Path], function: str, keyword: str = "") -> list[str]:
    """Text given to calls of a function: every positional argument that is text, and a keyword argument.

    Args:
        files: Source files.
        function: The function's or method's name.
        keyword: The keyword argument's name.
    """
    found = []
    for node in nodes(files):
        if isinstance(node, ast.Call) and function in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            given = [*node.args, *(word.value for word in node.keywords if word.arg == keyword)]
            found += [word.value for word in given if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return found


def check_known(what: str, name: str, known: Iterable[str], otherwise: Iterable[str]) -> None:
    """Refuse a name that a host does not know; where it knows none at all, nothing is refused.

    Args:
        what: The option that holds the name.
        name: The name.
        known: Those of the host.
        otherwise: What to expect where none is close to the name.

    Raises:
        UserError: With the closest names.
    """
    names = list(known)
    if names and name not in names:
        check_choice(what, name, difflib.get_close_matches(name, names, n=4) or otherwise)
