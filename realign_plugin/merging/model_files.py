"""Checks of the files of a merge's models, before mergekit reads them."""

from __future__ import annotations

from typing import Final

from realign_plugin.errors import UserError
from realign_plugin.subspace.checkpoints import INDEX_NAME, WHOLE_NAME, Checkpoint, indexed_files

TRANSPOSED: Final = ("gpt2", "openai-gpt")
"""Model types with Conv1D, which holds its weight as ``[in, out]``."""


def check_not_transposed(model: Checkpoint, method: str) -> None:
    """Refuse architectures whose weights a projection would meet on their inputs' side.

    Args:
        model: The base model.
        method: Name of the merge method.

    Raises:
        UserError: With the model's type.
    """
    kind = model.config.get("model_type")
    if kind in TRANSPOSED:
        raise UserError(
            f"{model.what}: {model.path} is a {kind} model, whose weights are transposed (Conv1D), expected linear "
            f"modules, whose outputs {method} projects; use a method of mergekit's (linear, task_arithmetic)"
        )


def check_files(model: Checkpoint) -> None:
    """Refuse a model of which a weight is quantised, and files that mergekit and transformers read unlike.

    Raises:
        UserError: With the tensor or the files.
    """
    whole, index = model.path / WHOLE_NAME, model.path / INDEX_NAME
    if not whole.is_file() and not index.is_file():
        raise UserError(
            f"{model.what}: {model.path} holds neither {WHOLE_NAME} nor {INDEX_NAME}, which mergekit reads, expected "
            "one of them; load the model with transformers and save it again"
        )
    if whole.is_file() and index.is_file() and indexed_files(index, model.what) != [WHOLE_NAME]:
        raise UserError(
            f"{model.what}: {model.path} holds {WHOLE_NAME}, which transformers reads, and {INDEX_NAME} of other "
            "files, which mergekit reads, expected one of them; delete what an earlier save left"
        )
    model.check_not_quantised()
