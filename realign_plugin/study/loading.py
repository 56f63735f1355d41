"""Reads a study's configuration file: files on files, overrides, and mistakes in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from realign_plugin.errors import UserError
from realign_plugin.study.config import StudyConfig


def load(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a configuration file.

    Args:
        path: YAML; ``extends: FILE`` puts it on top of another one; ``${root}`` and the like stand for other values,
            ``${oc.env:NAME}`` for the environment's.
        overrides: ``key.key=value``, on top of the file.

    Raises:
        UserError: If it cannot be read, or a key or value is at fault; one line for the first mistake.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise UserError(f"{text}: is no override, expected KEY=VALUE, for example root=runs/mine")
    read = _read(path)
    try:
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_one_line(error)}; expected ${{…}} to name a value that is there") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys, expected a study's configuration such as root, model, tasks")
    return parse(values, str(path))


def _read(path: Path, seen: tuple[Path, ...] = ()) -> Any:
    """A YAML file on top of the one that it extends."""
    from omegaconf import DictConfig, OmegaConf
    from yaml import YAMLError

    if path.resolve() in seen:
        raise UserError(f"{path}: extends itself, expected another file; mend `extends`")
    try:
        found = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing, expected a study's YAML file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected a study's YAML file") from error
    except YAMLError as error:
        raise UserError(f"{path}: is no YAML ({_one_line(error)}), expected a study's configuration") from error
    if not isinstance(found, DictConfig):
        raise UserError(f"{path}: holds no keys, expected a study's configuration such as root, model, tasks")
    base = found.pop("extends", None)
    return found if base is None else OmegaConf.merge(_read(path.parent / str(base), (*seen, path.resolve())), found)


def parse(values: Mapping[str, Any], what: str = "study") -> StudyConfig:
    """Check a configuration.

    Args:
        values: Its keys and values.
        what: Where they come from, for messages.

    Raises:
        UserError: For the first key or value at fault.
    """
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(_message(error, what)) from error


def _message(error: ValidationError, what: str) -> str:
    mistakes = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    mistake = mistakes[0]
    place = [part for part in mistake["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    name = ".".join(map(str, place))
    if mistake["type"] == "extra_forbidden":
        known = _keys(StudyConfig, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{what}: the key {name!r} is unknown, expected one of {', '.join(known)}{hint}"
    if mistake["type"] == "missing":
        return f"{what}: the key {name!r} is missing, expected it; add it"
    return f"{what}: {name}: {mistake['input']!r} does not do, expected: {mistake['msg']}"


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that are allowed at a place of the configuration."""
    for part in place:
        field = model.model_fields.get(str(part))
        found = _section(field.annotation) if field is not None else model
        if found is None:
            break
        model = found
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as ``dict[str, Task]`` or ``Align | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _section(part)
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
