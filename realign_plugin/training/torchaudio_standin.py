"""Lets text-only training start where torchaudio cannot be imported.

LLaMA-Factory imports torchaudio without condition, and PyPI's newest torch and torchaudio do not load together on many
machines. While its module is imported, a missing torchaudio is stood in for; using it says what is wrong.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

NAME = "torchaudio"


class StandIn(ModuleType):
    """Stands for a torchaudio that cannot be imported; any use of it raises ImportError with the reason."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(NAME)
        self.__dict__["_reason"] = f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"

    def __getattr__(self, name: str) -> NoReturn:
        """Explain that torchaudio is missing."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"torchaudio.{name} is needed for audio inputs, but torchaudio cannot be imported "
            f"({self.__dict__['_reason']}); "
            "install the torchaudio that belongs to your torch"
        )


@contextmanager
def stand_in() -> Iterator[None]:
    """Within the block ``import torchaudio`` works; afterwards ``sys.modules`` is as it was without it."""
    try:
        importlib.import_module(NAME)
    except Exception as error:  # whatever a broken extension raises: ImportError, OSError, RuntimeError
        substitute: Any = StandIn(error)
        sys.modules[NAME] = substitute
        try:
            yield
        finally:
            if sys.modules.get(NAME) is substitute:
                del sys.modules[NAME]
    else:
        yield
