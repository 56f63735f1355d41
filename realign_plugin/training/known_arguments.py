"""The arguments that ``llamafactory-cli train`` knows, read off its dataclasses; importing them takes ten seconds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.subspace import options

_NUMBERS: Final = ("int", "float")


def package_folder(name: str) -> Path | None:
    """Where an installed package is; None where it is not."""
    found = importlib.util.find_spec(name)
    places = list(found.submodule_search_locations or []) if found is not None else []
    return Path(places[0]) if places else None


@lru_cache
def known_arguments() -> Mapping[str, str]:
    """Name and annotation of each argument: LLaMA-Factory's, transformers' and ours; empty without LLaMA-Factory."""
    factory, transformers = package_folder("llamafactory"), package_folder("transformers")
    if factory is None or transformers is None:
        return {}
    files = [
        *sorted((factory / "hparams").glob("*_args.py")),
        Path(__file__).with_name("arguments.py"),
        Path(options.__file__),
    ]
    files += [transformers / "training_args.py", transformers / "training_args_seq2seq.py"]
    found: dict[str, str] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else ():
            if isinstance(node, ast.ClassDef):
                fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
                found |= {f.target.id: ast.unparse(f.annotation) for f in fields if isinstance(f.target, ast.Name)}
    return found


def check_arguments(arguments: Mapping[str, Any], what: str) -> None:
    """Refuse an argument that no training takes, and text where a number is expected.

    Args:
        arguments: Arguments of a training.
        what: The option that holds them.

    Raises:
        UserError: With the nearest name, or the number that was expected.
    """
    known = known_arguments()
    for name, value in arguments.items() if known else ():
        if name not in known:
            check_choice(what, name, _near(name, known))
        kind = known[name]
        if isinstance(value, str) and any(number in kind for number in _NUMBERS) and "str" not in kind:
            try:
                float(value)
            except ValueError as error:
                raise UserError(f"{what}.{name}: {value!r}, expected a number ({kind}); mend it") from error


def _near(name: str, known: Mapping[str, str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, known, n=4) or ["the arguments of llamafactory-cli train"]
