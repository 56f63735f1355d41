"""What a run folder's JSON files hold, as far as the report reads it; further keys are passed over."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BEFORE_ROLES = ("fine-tuned", "fused")
"""Roles of the models that repair starts from."""
OUR_ROLES = ("realigned", "fused realigned")
"""Roles of the models that a safety subspace repaired."""
REPAIRED_ROLES = (*OUR_ROLES, "rival")
"""Roles of all models that were repaired, by whatever method."""


UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that neither HTML, SVG nor UTF-8 can hold, and JSON can."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> Any:
    value = str(value) if isinstance(value, (int, float)) else value
    return UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number; NaN and infinity, which Python's JSON allows, stand for none."""
Text = Annotated[str, BeforeValidator(_text)]
"""Text that any page can hold; a bare number is taken as its digits."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Model(_Record):
    """A model of the study.

    Attributes:
        id: Its name in files.
        label: What tables call it.
        group: Task, or ``fused``, ``start``.
        role: ``base``, ``aligned``, ``fine-tuned``, ``realigned``, ``rival``, ``fused``, ``fused realigned``.
        method: What repaired it.
        seed: Of the repair.
        subspace: Folder of its safety subspace, within the run folder.
    """

    id: Text
    label: Text
    group: Text = ""
    role: str = ""
    method: Text | None = None
    seed: int | None = None
    subspace: str | None = None


class Training(_Record):
    """A training of the study.

    Attributes:
        id: Its name in files.
        label: What the report calls it.
        folder: Its output folder, within the run folder.
        stage: LLaMA-Factory's stage.
    """

    id: Text
    label: Text
    folder: str
    stage: str = ""

    def named(self, seeds: Collection[int]) -> tuple[str, int | None]:
        """Its label without the seed, and the seed, where the label bears one.

        Args:
            seeds: Seeds of the study: a number at the end of a name (``gsm8k-paper-0: masked DPO``) may be one.
        """
        if found := re.search(r"^(.+?)[\s,(:;–-]*\bseed (\d+)\)?$", self.label):
            return found[1], int(found[2])
        if (found := re.search(r"^(.*\w)-(\d+)(: .*)?$", self.label)) and int(found[2]) in seeds:
            return found[1] + (found[3] or ""), int(found[2])
        return self.label, None


class Study(_Record):
    """``study.json``.

    Attributes:
        title: Heading of the report.
        config: The resolved configuration.
        versions: Of the plugin and its hosts.
        seeds: Of the repairs.
        created: ISO time.
        models: All models.
        trainings: All trainings.
        tables: Names of the tables, in order; the first holds the headline.
        groups: What the page calls groups, where it is not their name.
    """

    title: Text
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=list)
    created: str | None = None
    models: list[Model] = Field(default_factory=list)
    trainings: list[Training] = Field(default_factory=list)
    tables: list[str] = Field(default_factory=list)
    groups: dict[str, Text] = Field(default_factory=dict)

    def group_label(self, group: str) -> str:
        """What the page calls a group."""
        return self.groups.get(group) or group or "models"


class Column(_Record):
    """A column of a table.

    Attributes:
        key: Key of its cells.
        label: Heading.
        axis: What it says something of.
        better: Which way is good.
    """

    key: str
    label: Text
    axis: Literal["safety", "over-refusal", "skill", "other"] = "other"
    better: Literal["lower", "higher"] | None = None


class Cell(_Record):
    """A number with its 95 % interval.

    Attributes:
        value: The number; None where there is none.
        low: Low end of the interval.
        high: High end.
        hits: What a share was counted from.
        count: Of how many.
        reason: Why there is no number.
    """

    value: Number = None
    low: Number = None
    high: Number = None
    hits: Number = None
    count: Number = None
    reason: str | None = None


class Row(_Record):
    """A model's row of a table; see ``Model`` for the fields that both have.

    Attributes:
        model: The model's id.
        label: What the table calls it.
        group: Its group.
        role: Its role.
        method: What repaired it.
        seed: Of the repair.
        cells: By the columns' keys.
    """

    model: Text
    label: Text
    group: Text = ""
    role: str = ""
    method: Text | None = None
    seed: int | None = None
    cells: dict[str, Cell] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The label with the seed, where there is one and the label does not say it."""
        said = self.seed is None or re.search(r"\bseed \d", self.label)
        return self.label if said else f"{self.label}, seed {self.seed}"

    def cell(self, key: str) -> Cell:
        """The cell of a column; an empty one where the row has none."""
        return self.cells.get(key) or Cell()


class Table(_Record):
    """``tables/NAME.json``.

    Attributes:
        name: File name without its end.
        title: Heading.
        description: A sentence or two.
        columns: In order.
        rows: In order.
    """

    name: str
    title: Text = ""
    description: Text = ""
    columns: list[Column] = Field(default_factory=list)
    rows: list[Row] = Field(default_factory=list)

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Rows by group, in order of appearance."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found


class DataCard(_Record):
    """``data/NAME.card.json``, as ``realign data`` writes it; a flat card with the attributes below is read too.

    Attributes:
        name: LLaMA-Factory's name of the data set.
        kind: ``preference``, ``contrast`` or ``sft``.
        description: What it is.
        source: Hub id or file name, with the configuration and the split where there are some.
        licence: Of the source.
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
        source = values["source"]
        parts = [str(source[key]) for key in ("name", "config", "split") if source.get(key)]
        return {"licence": source.get("licence")} | values | {"source": ", ".join(parts) or None}


class Command(_Record):
    """A line of ``commands.jsonl``.

    Attributes:
        step: The step's name.
        kind: Its kind.
        command: As it was run.
        seconds: How long it took.
        log: File of its output, within the run folder.
    """

    step: Text
    kind: str = ""
    command: str
    seconds: Number = None
    log: str | None = None
