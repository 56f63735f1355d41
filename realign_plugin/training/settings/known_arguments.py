"""The arguments that ``llamafactory-cli train`` knows, read from its dataclasses; importing them takes ten seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.host_sources import check_known, host_files, nodes
from realign_plugin.subspace import options

_NUMBERS: Final = frozenset({"int", "float"})


@lru_cache
def known_arguments() -> Mapping[str, str]:
    """Name and annotation of each argument: LLaMA-Factory's, transformers' and ours; empty without LLaMA-Factory."""
    files = [file for file in host_files("llamafactory", "hparams/*_args.py") if "megatron" not in file.name]
    theirs = host_files("transformers", "training_args.py", "training_args_seq2seq.py")
    if not files or not theirs:
        return {}
    ours = [*(Path(__file__).with_name(name) for name in ("arguments.py", "distillation.py")), Path(options.__file__)]
    found: dict[str, str] = {}
    for node in nodes([*files, *ours, *theirs]):
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
        UserError: With the closest name, or the number that was expected.
    """
    known = known_arguments()
    for name, value in arguments.items() if known else ():
        check_known(what, name, known, ["the arguments of llamafactory-cli train"])
        kind = known[name]
        names = set(re.findall(r"\w+", kind))
        if isinstance(value, str) and names & _NUMBERS and not names & {"str", "Literal"}:
            try:
                float(value)
            except ValueError as error:
                raise UserError(f"{what}.{name}: {value!r}, expected a number ({kind}); correct it") from error
