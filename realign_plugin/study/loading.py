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
from realign_plugin.study.config import StudyConfig

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
    from yaml import YAMLError

    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise UserError(f"{text}: is no override, expected KEY=VALUE, for example root=runs/mine")
    read = _read(path)
    try:
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (YAMLError, TypeError, AttributeError, IndexError) as error:
        text = " ".join(overrides)
        raise UserError(f"{text}: cannot be put on {path} ({_one_line(error)}), expected KEY=VALUE in YAML") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_one_line(error)}; expected ${{…}} to name a value that is there") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys, expected a study's configuration such as root, model, tasks")
    check_secrets(values)
    return parse(values, str(path))


def check_secrets(values: Any, place: str = "") -> None:
    """Refuse a secret of the environment in the configuration: it would be in the plan, the tables, the report.

    Args:
        values: The configuration or a part of it.
        place: Where the part is.

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
    text = str(mistake["msg"]).removeprefix("Value error, ")
    given = f"{mistake['input']!r} " if not isinstance(mistake["input"], (dict, BaseModel)) else ""
    return f"{what}: {name or 'root'}: {given[:200]}does not do: {text}"


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
