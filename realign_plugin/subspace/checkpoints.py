"""Full checkpoints on disk, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.subspace.tensor_files import all_finite, open_tensors
from realign_plugin.text_files import read_json

WHOLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
FIRST_ROWS: Final = 8
"""Rows of a tensor that are compared before the others are read."""

UNTIE: Final = (
    "expected a base with an output head of its own; untie it and save it with tie_word_embeddings: false, or use the "
    "adapter unmerged"
)
"""What to do where an adapter of the output head cannot be merged."""

_WRAPPERS: Final = frozenset({"model", "language_model", "base_model", "transformer"})

_PACKED: Final = ("weight", "weight_packed", "_blocks")
"""How names of packed weights end: bitsandbytes, GPTQ and AWQ; compressed-tensors; MXFP4."""


class Checkpoint:
    """A model's safetensors files; nothing but headers is read before a tensor is asked for.

    Attributes:
        path: The model's folder.
        what: What the user calls it, e.g. ``task_models[0]``; the error message starts with it.
        names: All tensor names, in the order of the files.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        """Read the headers.

        Args:
            path: A folder with ``*.safetensors`` files and ``config.json``.
            what: What the user calls it.

        Raises:
            UserError: If the folder, its weights or one of its shards is missing or corrupt.
        """
        self.path = Path(path)
        self.what = what
        self._readers: dict[str, Any] = {}
        for file in self._files():
            reader = open_tensors(file, what)
            self._readers.update((name, reader) for name in list(reader.keys()))
        self.names = list(self._readers)
        self._plain: dict[str, list[str]] = {}
        for name in self.names:
            self._plain.setdefault(without_wrappers(name), []).append(name)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            raise UserError(
                f"{self.what}: {self.path} is not a folder, expected a model saved with safetensors; check the path"
            )
        files = weight_files(self.path, self.what)
        if not files:
            if (self.path / "adapter_config.json").is_file():
                raise UserError(
                    f"{self.what}: {self.path} is an adapter, expected a full model; give it as task_adapters"
                )
            found = ", ".join(sorted(p.name for p in self.path.iterdir())[:5]) or "nothing"
            raise UserError(
                f"{self.what}: {self.path} holds {found}, expected *.safetensors; save the model with safetensors"
            )
        return files

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            UserError: If it is missing or not a JSON object.
        """
        file = self.path / "config.json"
        return read_json(file, self.what, "the model's config", "copy it again")

    def find(self, name: str) -> str | None:
        """The name that a tensor has in the files: its own, or one that differs in leading wrappers only."""
        if name in self._readers:
            return name
        alike = self._plain.get(without_wrappers(name), [])
        return alike[0] if len(alike) == 1 else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header.

        Raises:
            UserError: If there is no such tensor.
        """
        return tuple(self._reader(name).get_slice(self.find(name)).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor, from the header.

        Raises:
            UserError: If there is no such tensor.
        """
        piece = self._reader(name).get_slice(self.find(name))
        known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        if piece.get_dtype() not in known:
            raise UserError(
                f"{self.what}: {name} in {self.path} is stored as {piece.get_dtype()}, expected fp32, fp16 or bf16; "
                "give the checkpoint before quantisation"
            )
        return known[piece.get_dtype()]

    def check_not_quantised(self) -> None:
        """Refuse a model of which a weight is stored quantised; integers that are no weights, such as masks, may stay.

        Raises:
            UserError: With the first such tensor.
        """
        for name in self.names:
            stored: str = self._reader(name).get_slice(name).get_dtype()
            if stored.startswith("F") or name.endswith(_PACKED):
                self.dtype(name)

    def element_size(self, name: str) -> int:
        """Bytes of one element of a tensor, from the header."""
        kind: str = self._reader(name).get_slice(self.find(name)).get_dtype()
        digits = "".join(c for c in kind.partition("_")[0] if c.isdigit())
        return max(1, int(digits or "8") // 8)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            UserError: If there is no such tensor, or it holds NaN or infinite numbers.
        """
        value: Tensor = self._reader(name).get_tensor(self.find(name))
        if not all_finite(value):
            raise UserError(
                f"{self.what}: {name} in {self.path} holds NaN or infinite numbers, expected finite ones; use an "
                "earlier checkpoint"
            )
        return value

    def rows(self, name: str, count: int | None) -> Tensor:
        """Read the first rows of a matrix, None: all; unlike ``tensor``, without a look for NaN.

        Raises:
            UserError: If there is no such tensor.
        """
        rows: Tensor = self._reader(name).get_slice(self.find(name))[:count]
        return rows

    def equals(self, other: Checkpoint, name: str, *, whole: bool = True) -> bool:
        """Whether a matrix is the same in another model, whatever the dtypes.

        Args:
            other: The other model.
            name: Name of the matrix.
            whole: Whether matrices whose first rows are the same are read to their end.

        Raises:
            UserError: If a model lacks the matrix.
        """
        rows = [FIRST_ROWS, None] if whole else [FIRST_ROWS]
        return all(_same(self.rows(name, count), other.rows(name, count)) for count in rows)

    def _reader(self, name: str) -> Any:
        found = self.find(name)
        if found is None:
            raise UserError(
                f"{self.what}: {self.path} lacks {name}, expected a model of the same architecture as the base; check "
                "the path"
            )
        return self._readers[found]


def weight_files(folder: Path, what: str) -> list[Path]:
    """The safetensors files that transformers reads a model from: one, or the shards that an index names.

    Where there is neither, all that are not an adapter's; none where there is nothing.

    Args:
        folder: The model's folder.
        what: What the user calls it.

    Raises:
        UserError: If the index is corrupt, or names a file that does not exist.
    """
    whole, index = folder / WHOLE_NAME, folder / INDEX_NAME
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_"))
    shards = indexed_files(index, what)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise UserError(f"{what}: {folder / missing[0]} does not exist, {INDEX_NAME} names it; copy the whole folder")
    return [folder / shard for shard in shards]


def indexed_files(index: Path, what: str) -> list[str]:
    """Names of the files that a model's index names.

    Raises:
        UserError: If it is corrupt.
    """
    found = read_json(index, what, "a weight_map", "copy it again").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(
            f"{what}: {index} is corrupt (weight_map is {found!r:.40}), expected names of files by names of tensors; "
            "copy it again"
        )
    return sorted(set(found.values()))


def linear_targets(checkpoint: Checkpoint, target: Iterable[str] | str) -> list[str]:
    """Modules with a matrix for a weight, inside numbered layers, that a target names.

    Args:
        checkpoint: The base model.
        target: ``all``, or ends of module names (``q_proj``), as a list or separated by commas.

    Raises:
        UserError: If a name matches nothing.
    """
    wanted = [part.strip() for part in target.split(",")] if isinstance(target, str) else list(target)
    matrices = [
        name.removesuffix(".weight")
        for name in checkpoint.names
        if name.endswith(".weight") and len(checkpoint.shape(name)) == 2
    ]
    numbered = [module for module in matrices if any(part.isdigit() for part in module.split("."))]
    if wanted == ["all"] and numbered:
        return numbered
    lost = [end for end in wanted if not any(_ends(module, end) for module in matrices)]
    if lost:
        known = ", ".join(sorted({module.rpartition(".")[2] for module in numbered})[:8]) or "none"
        raise UserError(
            f"lora_target: {', '.join(lost)} names no linear module of {checkpoint.path}, expected names like "
            f"{known}; correct lora_target"
        )
    return [module for module in matrices if any(_ends(module, end) for end in wanted)]


def check_untied(base: Checkpoint, modules: Iterable[str], what: str) -> None:
    """Refuse to merge an adapter of an output head that is the embedding: the base has no weight to write it to.

    Args:
        base: The base model.
        modules: Modules that the adapter changes.
        what: What the user calls the adapter; the error message starts with it.

    Raises:
        UserError: With the module.
    """
    for module in modules:
        if module.rpartition(".")[2] == "lm_head" and base.find(f"{module}.weight") is None:
            raise UserError(
                f"{what}: {module} is tied to the embedding in {base.path}, which holds no {module}.weight to merge "
                f"it into, {UNTIE}"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) if one.dtype == other.dtype else torch.equal(one.float(), other.float())


def _ends(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def without_wrappers(name: str) -> str:
    """A module's or tensor's name without the wrappers that models put around it, such as ``language_model.``."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)
