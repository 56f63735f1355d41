"""YAML configurations that users give: read with omegaconf, every mistake in one line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from realign_plugin.errors import UserError
from realign_plugin.text_files import DEEPEST, read_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOT_YAML: Final = (ValueError, TypeError, AttributeError, IndexError, OSError, RecursionError)
"""What yaml and omegaconf raise besides their own errors: for invalid dates, numbers of 5,000 digits, …"""


def read_yaml(path: Path, expected: str) -> DictConfig:
    """The keys of a YAML file.

    Args:
        path: The file.
        expected: What it should hold, for messages.

    Raises:
        UserError: If it cannot be read, is not YAML, or holds no keys.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = read_text(path, "", expected, "check the path")
    try:
        _check_depth(text)
        found = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, *_NOT_YAML) as error:
        raise UserError(f"{path} is not YAML ({one_line(error)}), expected {expected}; fix it") from error
    if not isinstance(found, DictConfig):
        raise UserError(f"{path} holds no keys, expected {expected}; check the file")
    return found


def with_overrides(read: DictConfig, overrides: Sequence[str], path: Path, example: str) -> DictConfig:
    """A configuration with overrides on top.

    Args:
        read: What ``read_yaml`` returned.
        overrides: ``key.key=value``.
        path: The file, for messages.
        example: An override as it should be.

    Raises:
        UserError: If one of them is not ``KEY=VALUE``, or does not fit the file.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise UserError(f"{text[:200]}: is not an override, expected KEY=VALUE, for example {example}")
    try:
        for text in overrides:
            _check_depth(text.partition("=")[2])
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
    except (yaml.YAMLError, OmegaConfBaseException, *_NOT_YAML) as error:
        text = " ".join(overrides)[:200]
        raise UserError(f"{text}: cannot be put on {path} ({one_line(error)}), expected KEY=VALUE in YAML") from error
    assert isinstance(merged, DictConfig)
    return merged


def one_line(error: Exception) -> str:
    """The message of an error on one line, cut short."""
    return " ".join(str(error).split())[:300]


def _check_depth(text: str) -> None:
    """Refuse what yaml's loaders, which recurse at each level, cannot hold; its parser does not."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("lists are nested too deeply")
