"""Settings of an evaluation: from lm-eval's metadata, then the environment, then defaults; no secret among them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from realign_plugin.errors import UserError
from realign_plugin.evaluation.judging.chosen import DEFAULT_MODEL, Chosen, check_names, choose
from realign_plugin.evaluation.judging.guards import Policy

KEY: Final = "OPENAI_API_KEY"
URL: Final = "OPENAI_BASE_URL"
ENVIRONMENT: Final = {"reference": "REALIGN_REFERENCE", "safety_data": "REALIGN_DATA"}
"""Settings whose environment variable is not ``REALIGN_`` and their name in capitals."""
DECIDING: Final = (
    *("judge", "judge_model", "judge_url", "judge_guard", "judge_policy", "judge_mode", "judge_order"),
    *("judge_max_tokens", "safety_data"),
)
"""Settings that decide what is measured, and by whom, rather than how fast."""
OF_A_TASK: Final = ("judge_max_unjudged", "reference", "safety_data")
"""Settings that each task of a run may have for itself; the others are the judge's, and a run has one."""


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


def _variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT.get(name, f"REALIGN_{name.upper()}")


def named_by_environment(metadata: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings that decide what is measured and that only the environment names, the judge among them.

    Args:
        metadata: lm-eval's metadata, which go before the environment.
        environ: The environment; None takes the process's.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {"judge": "openai"} if environ.get(KEY) else {}
    found |= {name: environ[_variable(name)] for name in DECIDING if environ.get(_variable(name))}
    off = (metadata.get("judge") or found.get("judge") or "off") == "off" or metadata.get("judge") is False
    return {
        name: value
        for name, value in found.items()
        if metadata.get(name) is None and not (off and name.startswith("judge"))
    }


class EvaluationSettings(BaseModel):
    """What an evaluation was asked for. The API key is read from the environment where it is used and kept nowhere."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    judge: str | tuple[str, ...] = "off"
    judge_model: str | tuple[str, ...] = DEFAULT_MODEL
    judge_url: str | tuple[str, ...] = ()
    judge_guard: str | None = None
    judge_policy: Policy = "strict"
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

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The judges: none, one or two."""
        models = self.models if "judge_model" in self.model_fields_set else ()
        return choose(_several(self.judge), models, _several(self.judge_url), self.judge_guard, self.judge_mode)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that would be asked, whether or not a judge is on."""
        return _several(self.judge_model)

    def judged_unlike(self, other: EvaluationSettings) -> str | None:
        """The first of the judge's settings that is not the same in others; None if all are."""
        names = (name for name in type(self).model_fields if name not in OF_A_TASK)
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)

    @field_validator("judge_model", "judge_url", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or len(parts) > 2 or not all(isinstance(p, str) for p in parts):
            raise ValueError("one name, or a list of two")
        named = tuple(part.strip() for part in parts)
        if named and not all(named):
            raise ValueError("a name, not nothing")
        return named[0] if len(named) == 1 else named

    @field_validator("judge_cache", "reference", "safety_data")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return path if path is None else Path(os.path.expanduser(path))

    @classmethod
    def load(
        cls,
        metadata: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        judge: str | None = None,
    ) -> EvaluationSettings:
        """Read the settings.

        Args:
            metadata: lm-eval's metadata. What is not ours is left alone; model arguments come along with it.
            environ: The environment; None takes the process's.
            judge: The judge where neither of them names one; None takes ``openai`` where a key is set, else ``off``.

        Returns:
            Settings.

        Raises:
            UserError: If a value means nothing, a name is unknown (see ``check_settings``), a judge at a server is
                asked for without an API key, or that key or a server's address cannot be one.
        """
        environ = os.environ if environ is None else environ
        given = dict(metadata or {})
        check_settings(given)
        values: dict[str, Any] = {"judge": judge or ("openai" if environ.get(KEY) else "off")}
        for name in cls.model_fields:
            if environ.get(_variable(name)):
                values[name] = environ[_variable(name)]
            if given.get(name) is not None:
                values[name] = given[name]
        if isinstance(values["judge"], bool):  # YAML and lm-eval read off as false
            values["judge"] = "openai" if values["judge"] else "off"
        _check_addresses(values.get("judge_url"))
        names = check_names(values["judge"])
        values["judge"] = names[0] if len(names) == 1 else names
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise _one_line(error) from None
        for chosen in settings.chosen:
            if not chosen.local:
                _check_server(chosen, names, environ)
        return settings


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _check_addresses(given: Any) -> None:
    """Refuse secrets in what ends up in results files."""
    for address in given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else ():
        if isinstance(address, str) and ("@" in address or "?" in address):
            shown = server_address({URL: address.strip()})
            raise UserError(
                f"judge_url: {shown} is given with a user name, a password or a query, expected an address without, "
                f"since it is written to results; give the whole address as {URL}"
            )


def _check_server(chosen: Chosen, names: Sequence[str], environ: Mapping[str, str]) -> None:
    who = f"judge: {(names[0] if len(names) == 1 else chosen.name)!r}"
    if chosen.address is None:
        check_access(environ, who)
    else:
        check_access({**environ, URL: chosen.address}, who, option="judge_url")


def check_settings(given: Mapping[str, Any], what: str = "metadata", *, all_ours: bool = False) -> None:
    """Refuse a name that is none of our settings and begins as the judge's do, or is nearly one of ours.

    Args:
        given: lm-eval's metadata; the model's arguments may be among them.
        what: What the user calls them.
        all_ours: Whether nothing else can be among them, so that every unknown name is refused.

    Raises:
        UserError: For the first one.
    """
    known = list(EvaluationSettings.model_fields)
    for name in map(str, given):
        ours = all_ours or name.startswith("judge")
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if ours else 0.8)
        if name not in known and (ours or near):
            hint = f"did you mean {near[0]!r}?" if near else "see docs/evaluate.md"
            raise UserError(f"{what}: {name[:80]!r} is unknown, expected one of our settings; {hint}")


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
    given = repr(first["input"])[:100]
    return UserError(f"{name}: {given} is wrong: {message}; correct the metadata, or {_variable(name)}")
