"""LoRA adapters on disk: read, checked, compared. JSON and safetensors only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from realign_plugin.atomic import sha256
from realign_plugin.errors import UserError
from realign_plugin.tensor_files import read_tensors
from realign_plugin.text_files import read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MODEL_PREFIX = "base_model.model."

Factors = dict[str, dict[str, Tensor]]
"""``{module: {"A": [r, in], "B": [out, r]}}``."""


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter that was read and checked.

    Attributes:
        path: Where it was read from.
        config: Its ``adapter_config.json``.
        factors: ``{module: {"A": [r, in], "B": [out, r]}}``, in the dtype of the file.
        alphas: LoRA alpha by module.
    """

    path: Path
    config: dict[str, Any]
    factors: Factors
    alphas: dict[str, float]

    @property
    def base_model(self) -> str | None:
        """The base model that the adapter names, or None."""
        name = self.config.get("base_model_name_or_path")
        return str(name) if name else None

    @property
    def ranks(self) -> dict[str, int]:
        """LoRA rank by module."""
        return {name: int(pair["A"].shape[0]) for name, pair in self.factors.items()}

    def provenance(self, role: str, weight: float | None = None) -> dict[str, Any]:
        """Name and sha256 of the adapter's weights, for the record that a subspace keeps."""
        entry: dict[str, Any] = {"role": role, "name": self.path.name, "sha256": sha256(self.path / WEIGHTS_NAME)}
        if weight is not None:
            entry["weight"] = weight
        return entry


def read_adapter_config(path: Path, what: str) -> dict[str, Any]:
    """Read ``adapter_config.json`` of a local adapter folder.

    Args:
        path: The folder.
        what: What the user calls it, e.g. ``aligned_adapter``; starts the message of an error.

    Raises:
        UserError: If the folder or the file is missing, empty, or no JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{what}: {path} does not exist, expected the folder of a LoRA adapter; check the path")
    if not path.is_dir():
        raise UserError(
            f"{what}: {path} is a file, expected the folder of a LoRA adapter; give the folder that holds it"
        )
    file = path / CONFIG_NAME
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise UserError(f"{what}: {path} holds {found}, expected {CONFIG_NAME}; give the folder that PEFT saved")
    return read_json(file, what, "PEFT's adapter configuration", "save it again")


def _check_plain_lora(path: Path, config: dict[str, Any], what: str) -> None:
    kind = config.get("peft_type")
    if kind == "SAFETY_SUBSPACE":
        raise UserError(
            f"{what}: {path} is a SAFETY_SUBSPACE adapter, expected LORA; make one of it with `realign export {path} "
            "OUT`"
        )
    if kind != "LORA":
        raise UserError(f"{what}: {path} has peft_type {kind!r}, expected 'LORA'; only LoRA adapters can be realigned")
    if config.get("use_dora"):
        raise UserError(f"{what}: {path} uses DoRA, expected plain LoRA; train it again with use_dora: false")
    if config.get("modules_to_save"):
        saved = ", ".join(map(str, config["modules_to_save"]))
        raise UserError(
            f"{what}: {path} holds whole modules ({saved}) in modules_to_save, expected LoRA factors alone; "
            "train it without modules_to_save (additional_target)"
        )
    for key in ("bias", "lora_bias"):
        if config.get(key) not in (None, False, "none"):
            raise UserError(f"{what}: {path} has {key}: {config[key]!r}, expected none; train it without biases")
    for key in ("target_parameters", "alora_invocation_tokens", "trainable_token_indices", "layer_replication"):
        if config.get(key):
            raise UserError(f"{what}: {path} has {key}, expected plain LoRA on linear modules; train it without")


def _pattern_value(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule for rank_pattern and alpha_pattern: the first key that matches the end of the module's name."""
    import re

    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


_NOT_FACTORS = (
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


def _check_embeddings(names: Iterable[str], file: Path, what: str) -> None:
    import re

    modules = [name.removeprefix(MODEL_PREFIX) for name in names]
    for pattern, found, fix in _NOT_FACTORS:
        match = next(filter(None, (re.fullmatch(pattern, module) for module in modules)), None)
        if match is not None:
            raise UserError(
                f"{what}: {file} holds {found.format(match[1])}, expected LoRA factors of linear modules alone; "
                f"{fix.format(match[1].rpartition('.')[2])}"
            )


def read_lora(path: str | Path, what: str) -> LoraAdapter:
    """Read a LoRA adapter and check all that can be checked without its model.

    Args:
        path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        what: What the user calls it, e.g. ``task_adapters[0]``; starts the message of an error.

    Raises:
        UserError: If it is missing, empty, corrupt, no plain LoRA, or holds NaN or infinite numbers.
    """
    path = Path(path)
    config = read_adapter_config(path, what)
    _check_plain_lora(path, config, what)
    file = path / WEIGHTS_NAME
    if not file.is_file():
        if (path / "adapter_model.bin").exists():
            raise UserError(
                f"{what}: {path} holds adapter_model.bin (a pickle), expected {WEIGHTS_NAME}; load it with PEFT and "
                "save it again"
            )
        raise UserError(f"{what}: {file} does not exist, expected the adapter's weights; save the adapter again")
    tensors = read_tensors(file, what)
    _check_embeddings(tensors, file, what)
    factors: Factors = {}
    for name, tensor in tensors.items():
        module, _, factor = name.removeprefix(MODEL_PREFIX).partition(".lora_")
        if factor not in ("A.weight", "B.weight") or tensor.dim() != 2:
            raise UserError(
                f"{what}: {file} holds {name} of shape {tuple(tensor.shape)}, expected lora_A and lora_B of linear "
                "modules; "
                "train the adapter on linear modules only"
            )
        factors.setdefault(module, {})[factor[0]] = tensor
    for module, pair in factors.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {k: tuple(v.shape) for k, v in pair.items()}
            raise UserError(
                f"{what}: {file} has factors {shapes} for {module}, expected A [r, in] and B [out, r]; save it again"
            )
    if not factors:
        raise UserError(f"{what}: {file} holds no tensor, expected LoRA factors; save the adapter again")
    patterns = config.get("alpha_pattern") or {}
    alphas = {m: float(_pattern_value(patterns, m, config.get("lora_alpha", 8))) for m in factors}
    ordered = {module: factors[module] for module in sorted(factors, key=natural_key)}
    return LoraAdapter(path, config, ordered, alphas)


def check_same_modules(task: LoraAdapter, other: LoraAdapter, what: str, other_what: str) -> None:
    """Refuse two adapters whose factors cannot be subtracted from each other.

    Args:
        task: One adapter.
        other: The adapter it is compared with.
        what: What the user calls the first.
        other_what: What the user calls the second.

    Raises:
        UserError: If base model, modules, rank, alpha, rsLoRA or shapes differ; the module and both values are named.
    """
    if task.base_model and other.base_model and not _same_model(task.base_model, other.base_model):
        raise UserError(
            f"{what}: base model {task.base_model!r} differs from {other_what}'s {other.base_model!r}, expected one "
            "base; "
            "use adapters of the same base model"
        )
    rslora, other_rslora = bool(task.config.get("use_rslora")), bool(other.config.get("use_rslora"))
    if rslora != other_rslora:
        raise UserError(
            f"{what}: use_rslora is {rslora}, {other_what} has {other_rslora}, expected the same; "
            "start the fine-tuning from the aligned adapter"
        )
    missing = [m for m in other.factors if m not in task.factors] or [
        m for m in task.factors if m not in other.factors
    ]
    if missing:
        here = missing[0] in task.factors
        raise UserError(
            f"{what}: target module {missing[0]} is {'only there' if here else 'missing'}, {other_what} "
            f"{'lacks it' if here else 'has it'}, expected the same target modules (lora_target)"
        )
    for module, pair in task.factors.items():
        theirs = other.factors[module]
        if task.ranks[module] != other.ranks[module]:
            raise UserError(
                f"{what}: rank {task.ranks[module]} of {module} differs from {other_what}'s {other.ranks[module]}, "
                "expected the same lora_rank; start the fine-tuning from the aligned adapter"
            )
        if task.alphas[module] != other.alphas[module]:
            raise UserError(
                f"{what}: alpha {task.alphas[module]:g} of {module} differs from {other_what}'s "
                f"{other.alphas[module]:g}, "
                "expected the same lora_alpha; start the fine-tuning from the aligned adapter"
            )
        for factor in ("A", "B"):
            if pair[factor].shape != theirs[factor].shape:
                raise UserError(
                    f"{what}: {factor} of {module} has shape {tuple(pair[factor].shape)}, {other_what} has "
                    f"{tuple(theirs[factor].shape)}, expected adapters of the same base model"
                )


def _same_model(one: str, two: str) -> bool:
    if one == two:
        return True
    a, b = Path(one), Path(two)
    if a.exists() and b.exists():
        configs = [folder / "config.json" for folder in (a, b)]
        copies = all(file.is_file() for file in configs) and configs[0].read_bytes() == configs[1].read_bytes()
        return copies or a.resolve() == b.resolve()
    # A path and a hub id, or a path of another machine: the same last part is taken for the same model.
    return a.name == b.name


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts layer 2 before layer 10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("."))
