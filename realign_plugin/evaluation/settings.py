"""Settings of an evaluation: from lm-eval's metadata, then the environment, then defaults; no secret among them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from realign_plugin.errors import UserError

KEY: Final = "OPENAI_API_KEY"
URL: Final = "OPENAI_BASE_URL"
ENVIRONMENT: Final = {"reference": "REALIGN_REFERENCE", "safety_data": "REALIGN_DATA"}
"""Settings whose environment variable is not ``REALIGN_`` and their name in capitals."""


def cache_folder() -> Path:
    """The user's cache folder for this package, by the platform's convention."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "realign"


def server_address(environ: Mapping[str, str] | None = None) -> str:
    """The judge server's address as it may be shown: without user name, password and query, which may be secrets."""
    address = (os.environ if environ is None else environ).get(URL) or "https://api.openai.com/v1"
    scheme, slashes, rest = address.partition("?")[0].partition("#")[0].rpartition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}".rstrip("/")


class EvaluationSettings(BaseModel):
    """What an evaluation was asked for. The API key is read from the environment where it is used and kept nowhere."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    judge: Literal["openai", "off"] = "off"
    judge_model: str = Field(default="gpt-3.5-turbo", min_length=1)
    judge_mode: Literal["harmful", "refusal", "moderation"] = "harmful"
    judge_order: Literal["both", "single"] = "both"
    judge_preference: bool = True
    judge_concurrency: int = Field(default=32, ge=1, le=1024)
    judge_requests_per_minute: float | None = Field(default=None, gt=0)
    judge_timeout: float = Field(default=60.0, gt=0)
    judge_retries: int = Field(default=6, ge=0, le=50)
    judge_max_tokens: int = Field(default=512, ge=8)
    judge_cache: Path = Field(default_factory=cache_folder)
    judge_batch: bool = False
    judge_max_unjudged: float = Field(default=0.1, ge=0, le=1)
    judge_price_prompt: float | None = Field(default=None, ge=0)
    judge_price_completion: float | None = Field(default=None, ge=0)
    reference: Path | None = None
    safety_data: Path | None = None

    @field_validator("judge_cache", "reference", "safety_data")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return path if path is None else Path(os.path.expanduser(path))

    @classmethod
    def load(
        cls, metadata: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> EvaluationSettings:
        """Read the settings.

        Args:
            metadata: lm-eval's metadata. What is not ours is left alone; model arguments come along with it.
            environ: The environment; None takes the process's.

        Returns:
            Settings; ``judge`` is ``openai`` where a key is set and nothing else was said.

        Raises:
            UserError: If a value means nothing, a key that begins with ``judge`` is unknown, ``judge: openai`` is
                asked for without an API key, or that key or the server's address cannot be one.
        """
        environ = os.environ if environ is None else environ
        given = dict(metadata or {})
        _check_names(given)
        values: dict[str, Any] = {"judge": "openai" if environ.get(KEY) else "off"}
        for name in cls.model_fields:
            variable = ENVIRONMENT.get(name, f"REALIGN_{name.upper()}")
            if environ.get(variable):
                values[name] = environ[variable]
            if given.get(name) is not None:
                values[name] = given[name]
        if isinstance(values["judge"], bool):  # YAML and lm-eval read off as false
            values["judge"] = "openai" if values["judge"] else "off"
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise _one_line(error) from None
        if settings.judge == "openai":
            check_access(environ)
        return settings


def _check_names(given: Mapping[str, Any]) -> None:
    known = list(EvaluationSettings.model_fields)
    for name in given:
        if str(name).startswith("judge") and name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see docs/evaluate.md"
            raise UserError(f"metadata: {name!r} is unknown, expected one of the judge's settings; {hint}")


def check_access(
    environ: Mapping[str, str], who: str = "judge: 'openai'", otherwise: str = ", or use judge: off", option: str = URL
) -> None:
    """See that key and address can be sent at all; the key's value is never shown.

    Args:
        environ: The environment, with the address where there is one.
        who: What needs them.
        otherwise: What can be done without them.
        option: What gave the address.

    Raises:
        UserError: If the key is missing, or it or the address cannot be one.
    """
    key = environ.get(KEY, "")
    if not key:
        raise UserError(
            f"{who} needs {KEY}, which is not set, expected a key in the environment; set it (a local "
            f"server takes any text: {KEY}=none){otherwise}"
        )
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{KEY}: holds white space at an end or letters outside ASCII, expected a key as one word; set it again"
        )
    if environ.get(URL):
        try:
            parts = urlsplit(environ[URL])
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise UserError(
                f"{option}: {server_address(environ)!r} is not an address, expected one like "
                "http://127.0.0.1:8000/v1; set it"
            )


def _one_line(error: ValidationError) -> UserError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    message = first["msg"][:1].lower() + first["msg"][1:]
    variable = ENVIRONMENT.get(name, f"REALIGN_{name.upper()}")
    given = repr(first["input"])[:100]
    return UserError(f"{name}: {given} is wrong: {message}; correct the metadata, or {variable}")
