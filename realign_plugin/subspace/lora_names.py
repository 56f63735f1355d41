"""Names of tensors in a LoRA adapter's file, and of the modules that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from realign_plugin.errors import UserError

MODEL_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.[^.]+)?\.weight")
_NOT_FACTORS: Final = (
    (
        r"(.+)\.lora_embedding_[AB]",
        "LoRA factors of {}, an embedding table",
        "train the adapter without {} in lora_target",
    ),
    (
        r"(.+)\.base_layer\.weight",
        "PEFT's copy of the base model's {} next to its LoRA factors",
        "save the adapter again with save_pretrained(…, save_embedding_layers=False), or train it without {} in "
        "lora_target",
    ),
    (
        r"(?!.*\.lora_)(.+)\.weight",
        "the whole weight of {}, which PEFT saves where the vocabulary was resized",
        "train the adapter on a base model that has the tokens, without resize_vocab",
    ),
)
"""What PEFT saves for an embedding or the output head: names, what they are, what to do."""


def check_names(names: Iterable[str], file: Path, what: str) -> None:
    """Refuse what PEFT saves of embeddings and output heads, and say what it is.

    Args:
        names: Names of all tensors in an adapter's file.
        file: The file, for messages.
        what: What the user calls the adapter.

    Raises:
        UserError: If a tensor is not a LoRA factor of a linear module.
    """
    known = list(names)
    for pattern, found, fix in _NOT_FACTORS:
        for name in known:
            if match := re.fullmatch(pattern, name.rpartition(MODEL_PREFIX)[2]):
                raise UserError(
                    f"{what}: {file} holds {found.format(match[1])}, expected LoRA factors of linear modules alone; "
                    f"{fix.format(match[1].rpartition('.')[2])}"
                )


def split_name(name: str, file: Path, what: str) -> tuple[str, str]:
    """A tensor's module and factor, ``A`` or ``B``, from its name in an adapter's file.

    The names that torch.compile (``_orig_mod.``) and DDP (``module.``) put around modules are left out, and an
    adapter's name (``lora_A.default.weight``), as in a state dict that PEFT did not save.

    Args:
        name: The tensor's name.
        file: Its file, for messages.
        what: What the user calls the adapter.

    Raises:
        UserError: If it is not a LoRA factor of a linear module, or PEFT would not find it.
    """
    plain = ".".join(part for part in name.split(".") if part != "_orig_mod")
    while plain.startswith("module."):
        plain = plain.removeprefix("module.")
    if not plain.startswith(MODEL_PREFIX):
        raise UserError(
            f"{what}: {file} holds {name}, expected a name that begins with {MODEL_PREFIX!r}, without which PEFT "
            "loads nothing; save the adapter with PEFT's save_pretrained"
        )
    plain = plain.removeprefix(MODEL_PREFIX)
    match = _FACTOR.fullmatch(plain)
    if match is None or match["module"].startswith(MODEL_PREFIX):
        raise UserError(
            f"{what}: {file} holds {name}, expected lora_A and lora_B of linear modules; train the adapter on linear "
            "modules only"
        )
    return match["module"].removeprefix("module."), match["factor"]


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts layer 2 before layer 10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("."))
