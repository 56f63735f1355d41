"""Data cards, as ``realign data`` writes them."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field, model_validator

from realign_plugin.lab.records import Record, Text


class DataCard(Record):
    """``data/NAME.card.json``, as ``realign data`` writes it; a flat card with the attributes below is read too.

    Attributes:
        name: LLaMA-Factory's name of the data set.
        kind: ``preference``, ``contrast`` or ``sft``.
        description: What it is.
        source: Hub id or file name, with the configuration and the split where there are some; all of several.
        licence: Of the source; of several, each with its name.
        counts: Rows read, written, dropped by reason ...
        distinct_prompts: By half.
        sha256: Of the files written.
        seed: Of the choice of rows and the split.
    """

    name: Text
    kind: Text = ""
    description: Text = Field("", validation_alias=AliasChoices("what", "description"))
    source: Text | None = None
    licence: Text | None = None
    counts: dict[str, Any] = Field(default_factory=dict)
    distinct_prompts: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict, validation_alias=AliasChoices("files", "sha256"))
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _source_in_a_line(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("source"), dict):
            return values
        given = values.get("sources")
        sources = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        named = {_in_a_line(one): one.get("licence") for one in sources or [values["source"]]}
        licence = next(iter(named.values()))
        if len(named) > 1:
            licence = "; ".join(f"{name}: {one or 'not stated'}" for name, one in named.items())
        return {"licence": licence} | values | {"source": "; ".join(filter(None, named)) or None}


def _in_a_line(source: dict[str, Any]) -> str:
    return ", ".join(str(source[key]) for key in ("name", "config", "split") if source.get(key))
