"""LoRA adapters on disk: read, checked and compared. JSON and safetensors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.files import clean_up, sha256
from realign_plugin.subspace.fingerprints import differing, fingerprint
from realign_plugin.subspace.lora_config import LoraConfig, parse_lora_config
from realign_plugin.subspace.lora_names import check_names, natural_key, split_name
from realign_plugin.subspace.spec import VECTOR_DTYPES
from realign_plugin.subspace.tensor_files import read_tensors
from realign_plugin.text_files import read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_NAME, "adapter_model*")
"""Patterns of the files that make an adapter."""

Factors = dict[str, dict[str, Tensor]]
"""``{module: {"A": [r, in], "B": [out, r]}}``."""


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter that was read and checked.

    Attributes:
        path: Where it was read from.
        config: Its ``adapter_config.json``.
        factors: ``{module: {"A": [r, in], "B": [out, r]}}``, in the dtype of the file.
    """

    path: Path
    config: LoraConfig
    factors: Factors

    @property
    def base_model(self) -> str | None:
        """The base model that the adapter names, or None."""
        return self.config.base_model_name_or_path or None

    @property
    def ranks(self) -> dict[str, int]:
        """LoRA rank by module; of a parameter that of one expert."""
        experts = self.parameters
        return {m: int(pair["A"].shape[0]) // experts.get(m, [1])[0] for m, pair in self.factors.items()}

    @property
    def parameters(self) -> dict[str, list[int]]:
        """Experts, inputs and outputs of each target that is a parameter rather than a module."""
        return {
            name: [pair["A"].shape[0] // self.config.rank(name), pair["A"].shape[1], pair["B"].shape[0]]
            for name, pair in self.factors.items()
            if self.config.is_parameter(name)
        }

    @property
    def alphas(self) -> dict[str, float]:
        """LoRA alpha by module."""
        return {name: self.config.alpha(name) for name in self.factors}

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
        what: What the user calls it, e.g. ``aligned_adapter``; the error message starts with it.

    Raises:
        UserError: If the folder or the file is missing, empty, or not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{what}: {path} does not exist, expected the folder of a LoRA adapter; check the path")
    if not path.is_dir():
        raise UserError(
            f"{what}: {path} is a file, expected the folder of a LoRA adapter; give the folder that holds it"
        )
    clean_up(path)  # finishes a save that a kill cut off
    file = path / CONFIG_NAME
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise UserError(f"{what}: {path} holds {found}, expected {CONFIG_NAME}; give the folder that PEFT saved")
    return read_json(file, what, "PEFT's adapter configuration", "save it again")


def read_lora(path: str | Path, what: str, linear: bool = True) -> LoraAdapter:
    """Read a LoRA adapter and check all that can be checked without its model.

    Args:
        path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        what: What the user calls it, e.g. ``task_adapters[0]``; the error message starts with it.
        linear: Whether it has to be one of torch.nn.Linear modules alone, without ``target_parameters`` and Conv1D.

    Raises:
        UserError: If it is missing, empty, corrupt, not plain LoRA, holds NaN or infinite numbers, or if its tensors
            do not fit each other or its configuration.
    """
    path = Path(path)
    config = parse_lora_config(path, read_adapter_config(path, what), what, linear)
    file = path / WEIGHTS_NAME
    if not file.is_file():
        if (path / "adapter_model.bin").exists():
            raise UserError(
                f"{what}: {path} holds adapter_model.bin (a pickle), expected {WEIGHTS_NAME}; load it with PEFT and "
                "save it again"
            )
        raise UserError(f"{what}: {file} does not exist, expected the adapter's weights; save the adapter again")
    factors: Factors = {}
    tensors = read_tensors(file, what)
    check_names(tensors, file, what)
    for name, tensor in tensors.items():
        module, factor = split_name(name, file, what)
        if tensor.dim() != 2:
            raise UserError(
                f"{what}: {file} holds {name} of shape {tuple(tensor.shape)}, expected lora_A and lora_B of linear "
                "modules; train the adapter on linear modules only"
            )
        if factor in factors.setdefault(module, {}):
            raise UserError(
                f"{what}: {file} holds {factor} of {module} twice, expected it once; save the adapter again with PEFT"
            )
        factors[module][factor] = tensor
    if not factors:
        raise UserError(f"{what}: {file} holds no tensor, expected LoRA factors; save the adapter again")
    _check_factors(factors, config, file, what)
    ordered = {module: factors[module] for module in sorted(factors, key=natural_key)}
    return LoraAdapter(path, config, ordered)


def _check_factors(factors: Factors, config: LoraConfig, file: Path, what: str) -> None:
    """Refuse factors that do not fit each other or the configuration, by PEFT's rules for both."""
    for module, pair in factors.items():
        shapes = {factor: tuple(tensor.shape) for factor, tensor in sorted(pair.items())}
        rank = config.rank(module)
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1] or 0 in (*shapes["A"], *shapes["B"]):
            raise UserError(
                f"{what}: {file} has factors {shapes} for {module}, expected A [r, in] and B [out, r]; save it again"
            )
        if pair["A"].shape[0] % rank if config.is_parameter(module) else pair["A"].shape[0] != rank:
            raise UserError(
                f"{what}: {file} has factors of rank {pair['A'].shape[0]} for {module}, {CONFIG_NAME} gives it rank "
                f"{rank}, expected the same; the two files belong to different runs, copy the whole folder again"
            )
        for tensor in pair.values():
            if str(tensor.dtype).removeprefix("torch.") not in VECTOR_DTYPES:
                raise UserError(
                    f"{what}: {file} has {tensor.dtype} factors for {module}, expected one of "
                    f"{', '.join(VECTOR_DTYPES)}; save it again"
                )
        if not config.adapts(module):
            raise UserError(
                f"{what}: {file} holds factors of {module}, which target_modules in {CONFIG_NAME} does not name, so "
                "PEFT would leave them out; the two files belong to different runs, copy the whole folder again"
            )
    if lost := config.unmatched([module for module in factors if not config.is_parameter(module)]):
        raise UserError(
            f"{what}: {file} holds no factors of {lost[0]}, which target_modules in {CONFIG_NAME} names, expected "
            "them; the file is incomplete, copy the whole folder again"
        )


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
    modules = [module for module in other.factors if not other.config.is_parameter(module)]
    if task.base_model and other.base_model and not _same_model(task.base_model, other.base_model, modules):
        raise UserError(
            f"{what}: base model {task.base_model!r} differs from {other_what}'s {other.base_model!r}, expected one "
            "base; "
            "use adapters of the same base model"
        )
    rslora, other_rslora = task.config.use_rslora, other.config.use_rslora
    if rslora != other_rslora:
        raise UserError(
            f"{what}: use_rslora is {rslora}, {other_what} has {other_rslora}, expected the same; "
            "start the fine-tuning from the aligned adapter"
        )
    targets, other_targets = (sorted(one.config.target_parameters or ()) for one in (task, other))
    if targets != other_targets:
        raise UserError(
            f"{what}: target_parameters are {targets}, {other_what} has {other_targets}, expected the same; start the "
            "fine-tuning from the aligned adapter"
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
    for module in task.factors:
        _check_same_sizes(module, task, other, what, other_what)


def _check_same_sizes(module: str, task: LoraAdapter, other: LoraAdapter, what: str, other_what: str) -> None:
    pair, theirs = task.factors[module], other.factors[module]
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


def _same_model(one: str, two: str, modules: Sequence[str]) -> bool:
    a, b = Path(one), Path(two)
    if one == two or (a.exists() and a.resolve() == b.resolve()):
        return True
    if a.exists() and b.exists():
        found = [fingerprint(folder, modules) for folder in (a, b)]
        if all("weights" in part for part in found):
            return differing(*found) is None
        configs = [folder / "config.json" for folder in (a, b)]
        return all(file.is_file() for file in configs) and configs[0].read_bytes() == configs[1].read_bytes()
    # A path and a hub id, or a path of another machine: the same last part is taken for the same model.
    return a.name == b.name
