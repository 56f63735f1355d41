"""Reads a study's configuration file: files on files, overrides, and mistakes in one line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from realign_plugin.errors import UserError
from realign_plugin.evaluation.judging.settings import named_by_environment
from realign_plugin.lab.study.config.study import StudyConfig
from realign_plugin.yaml_files import one_line, read_yaml, with_overrides

SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
SECRET_LENGTH: Final = 8


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

    merged = with_overrides(_read(path), overrides, path, "root=runs/mine")
    try:
        values: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path}: {one_line(error)}; expected ${{…}} to name a value that is there") from error
    check_secrets(values)
    config = parse(values, str(path))
    # So that the plan holds who judges, and a change of it is noticed.
    config.evaluate.metadata |= named_by_environment(config.evaluate.metadata)
    return config


def check_secrets(values: Any, place: str = "") -> None:
    """Refuse a secret of the environment in the configuration: it would be in the plan, the tables, the report.

    Raises:
        UserError: With the key and the variable, never the value.
    """
    if isinstance(values, dict):
        for key, value in values.items():
            check_secrets(value, f"{place}.{key}".lstrip("."))
    elif isinstance(values, list):
        for value in values:
            check_secrets(value, place)
    elif isinstance(values, str) and len(values) >= SECRET_LENGTH:
        for name, secret in os.environ.items():
            if SECRET.search(name) and len(secret) >= SECRET_LENGTH and secret in values:
                raise UserError(
                    f"{place}: holds the value of {name}, expected no secret in a study's file; leave it out, "
                    "the hosts read it from the environment"
                )


def _read(path: Path, seen: tuple[Path, ...] = ()) -> Any:
    """A YAML file on top of the one that it extends."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found = read_yaml(path, "a study's configuration such as root, model, tasks")
    if path.resolve() in seen:
        raise UserError(f"{path}: extends itself, expected another file; correct `extends`")
    base = found.pop("extends", None)
    if base is None:
        return found
    below = _read(path.parent / str(base), (*seen, path.resolve()))
    try:
        return OmegaConf.merge(below, found)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be put on {base} ({one_line(error)}), expected the same sections; correct one of them"
        ) from error


def parse(values: Mapping[str, Any], what: str = "study") -> StudyConfig:
    """Check a configuration.

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
    text = str(mistake["msg"]).removeprefix("Value error, ")
    given = f"{mistake['input']!r} " if not isinstance(mistake["input"], (dict, BaseModel)) else ""
    return f"{what}: {name or 'root'}: {given[:200]}is not allowed: {text}"


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
