"""A safety subspace on disk: the names of its tensors, and what is checked before one is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.method.masks import logits_shape
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, read_adapter_config
from realign_plugin.subspace.lora_names import MODEL_PREFIX, natural_key
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.subspace.tensor_files import check_finite, open_tensors

PEFT_TYPE: Final = "SAFETY_SUBSPACE"
PREFIX: Final = "safety_subspace_"
_FLOATS: Final = ("F32", "F16", "BF16", "F64")


def read_spec(path: Path) -> tuple[SubspaceSpec, str | None]:
    """A saved subspace's description, and the name of its base model, if known.

    Args:
        path: Folder of the subspace.

    Raises:
        UserError: If ``adapter_config.json`` is missing, corrupt, or not a safety subspace's, or a value in it is
            wrong.
    """
    config = read_adapter_config(path, "adapter")
    if config.get("peft_type") != PEFT_TYPE:
        raise UserError(
            f"adapter: {path} has peft_type {config.get('peft_type')!r}, expected {PEFT_TYPE!r}; "
            "give the output folder of a mask_dpo run"
        )
    names = {field.name for field in fields(SubspaceSpec)}
    spec = SubspaceSpec(**{key: value for key, value in config.items() if key in names})
    base = config.get("base_model_name_or_path")
    try:
        spec.check()
        if not isinstance(base, str | None):
            raise UserError(f"base_model_name_or_path: {base!r}, expected text; correct it")
    except UserError as error:
        raise UserError(f"adapter: {path / CONFIG_NAME} holds {error}, or copy the whole folder again") from error
    return spec, base


def tensor_shapes(path: str | Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of what a saved subspace masks, from the header of its file alone.

    Args:
        path: Folder of the subspace.

    Returns:
        ``{module: {factor: (rows, columns)}}``.

    Raises:
        UserError: If the file does not hold what ``adapter_config.json`` describes.
    """
    spec, _ = read_spec(Path(path))
    return open_subspace(Path(path), spec)[1]


def open_subspace(path: Path, spec: SubspaceSpec) -> tuple[Any, dict[str, dict[str, tuple[int, ...]]]]:
    """Open a saved subspace's tensors, once names, shapes and dtypes in the file's header fit its spec.

    The modules are those of the file. PEFT may have shortened ``target_modules`` to suffixes (where there are 20 or
    more), so it is only compared with them, and replaced in ``spec`` by their full names.

    Args:
        path: Folder of the subspace.
        spec: What the file should hold; its ``target_modules`` is changed.

    Returns:
        The file's reader, and ``{module: {factor: (rows, columns)}}`` in the order of ``spec.target_modules``.

    Raises:
        UserError: If the file is missing or corrupt, or a tensor is missing, unknown, or of another shape or dtype.
    """
    file = path / WEIGHTS_NAME
    if not file.is_file():
        raise UserError(f"adapter: {file} does not exist, expected the subspace's tensors; copy the whole folder")
    reader = open_tensors(file, "adapter")
    headers = {name: reader.get_slice(name) for name in reader.keys() if not _is_of_base(name)}  # noqa: SIM118
    modules = _modules(headers, spec, file)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for module in modules:
        shapes[module] = {factor: _shape(spec, module, factor, headers, file) for factor in spec.factors}
        for factor, shape in shapes[module].items():
            for name, expected in _expected(spec, module, factor, shape).items():
                found, dtype = tuple(headers[name].get_shape()), headers[name].get_dtype()
                if found != expected or dtype not in _FLOATS:
                    raise UserError(
                        f"adapter: {file} holds {name} of shape {found} and dtype {dtype}, expected {expected} by "
                        f"{CONFIG_NAME} and one of {', '.join(_FLOATS)}; the two files belong to different runs, copy "
                        "the whole folder again"
                    )
    spec.target_modules = modules
    return reader, shapes


def resized_tables(reader: Any) -> list[str]:
    """Names of the base model's own tensors that PEFT saved with an adapter because the vocabulary was resized."""
    return [name for name in reader.keys() if _is_of_base(name) and ".base_layer." not in name]  # noqa: SIM118


def _is_of_base(name: str) -> bool:
    """Whether PEFT saved a tensor of the base model: the embedding or the output head, resized or a target."""
    return PREFIX not in name and name.endswith((".weight", ".bias"))


def tensor_name(module: str, kind: str, factor: str) -> str:
    """A tensor's name in the file.

    Args:
        module: Full name of the module.
        kind: ``logits``, ``aligned`` or ``deltas``.
        factor: ``A``, ``B`` or ``W``.
    """
    return f"{MODEL_PREFIX}{module}.{PREFIX}{kind}_{factor}"


def check_folder(path: Path) -> None:
    """Check a saved subspace to its last number.

    Args:
        path: Its folder.

    Raises:
        UserError: If its configuration or a tensor is missing, corrupt, inconsistent or not finite.
    """
    spec, _ = read_spec(path)
    reader, _ = open_subspace(path, spec)
    for name in reader.keys():  # noqa: SIM118
        check_finite(reader.get_tensor(name), name, path / WEIGHTS_NAME, "adapter")


def _modules(headers: Mapping[str, Any], spec: SubspaceSpec, file: Path) -> list[str]:
    """Full names of the modules in a file, each with all its tensors, and no other tensor with them."""
    found = {name.rpartition(f".{PREFIX}")[0].removeprefix(MODEL_PREFIX) for name in headers}
    modules = sorted(found, key=natural_key)
    kinds = ("logits", "deltas", "aligned") if spec.has_aligned else ("logits", "deltas")
    names = {tensor_name(module, kind, factor) for module in modules for kind in kinds for factor in spec.factors}
    if not headers:
        raise UserError(f"adapter: {file} holds no tensor, expected a safety subspace; copy the whole folder again")
    if unknown := sorted(set(headers) - names):
        raise UserError(
            f"adapter: {file} holds {unknown[0]}, expected only {', '.join(kinds)} of {', '.join(spec.factors)} named "
            f"{tensor_name('MODULE', kinds[0], spec.factors[0])}; copy the whole folder again"
        )
    if lost := sorted(names - set(headers)):
        raise UserError(
            f"adapter: {file} lacks {lost[0]}, expected it for every target module; copy the whole folder again"
        )
    targets = None if spec.target_modules is None else [*spec.target_modules, *spec.parameters]
    if targets is not None and set(targets) == found:
        return sorted(targets, key=natural_key) if spec.parameters else targets
    named = [[target for target in targets or () if f".{module}".endswith(f".{target}")] for module in modules]
    if unnamed := [module for module, by in zip(modules, named, strict=True) if not by]:
        fault = f"{file} holds tensors of {unnamed[0]}, which target_modules in {CONFIG_NAME} does not name"
    elif empty := [target for target in targets or () if not any(target in by for by in named)]:
        fault = f"{file} holds no tensor of {empty[0]}, which target_modules in {CONFIG_NAME} names"
    else:
        return modules
    raise UserError(f"adapter: {fault}; the two files belong to different runs, copy the whole folder again")


def _shape(spec: SubspaceSpec, module: str, factor: str, headers: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    """Shape of one masked tensor: that of its task vectors, with the rank of the configuration."""
    name = tensor_name(module, "deltas", factor)
    shape = tuple(headers[name].get_shape())
    rank = spec.rows(module)
    expected = {"A": (rank, *shape[2:]), "B": (*shape[1:2], rank), "W": shape[1:]}[factor]
    if len(shape) != 3 or shape != (spec.kept_deltas, *expected) or 0 in shape:
        wanted = {"A": f"({rank}, in)", "B": f"(out, {rank})", "W": "(out, in)"}[factor]
        raise UserError(
            f"adapter: {file} holds {name} of shape {shape}, expected {spec.kept_deltas} task vector(s) of shape "
            f"{wanted} by {CONFIG_NAME}; the two files belong to different runs, copy the whole folder again"
        )
    return expected


def _expected(spec: SubspaceSpec, module: str, factor: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that belongs to one masked tensor, by name."""
    wanted = {
        "logits": logits_shape(shape, spec.mask_granularity),  # type: ignore[arg-type]
        "deltas": (spec.kept_deltas, *shape),
    }
    if spec.has_aligned:
        wanted["aligned"] = shape
    return {tensor_name(module, kind, factor): value for kind, value in wanted.items()}
