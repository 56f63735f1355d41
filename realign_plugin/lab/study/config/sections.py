"""What the sections of a study's configuration share: names, seeds, and that no other key is allowed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Arguments = dict[str, Any]
"""Options of a stock command, by name."""


def as_list(value: Any) -> Any:
    """Names given as one text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def as_seeds(value: Any) -> Any:
    """Seeds given as their number."""
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(seeds: list[int]) -> list[int]:
    """Refuse a seed that is there twice."""
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is there twice; leave one out")
    return seeds


def empty(value: Any) -> Any:
    """A key without a value."""
    return {} if value is None else value


Names = Annotated[list[str], BeforeValidator(as_list)]
"""Names, as a list or as one text with commas."""
SomeNames = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
"""The same, at least one."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy takes as a seed."""
Seeds = Annotated[list[Seed], BeforeValidator(as_seeds), Field(min_length=1), AfterValidator(_distinct)]
"""Seeds that differ, as a list or as their number."""


class Section(BaseModel):
    """A section that allows no key but its own."""

    model_config = ConfigDict(extra="forbid", validate_default=True)
