"""The facts of a study as typed objects: written as JSON once, and read by tables, report, estimate and repair.

Unknown keys are ignored and missing ones have defaults, so that folders of other versions can be read.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer

from realign_plugin.evaluation.metrics.cells import Cell as Cell
from realign_plugin.evaluation.metrics.cells import Finite
from realign_plugin.lab.texts import Text as Text

Role = Literal["base", "aligned", "fine-tuned", "realigned", "baseline", "fused", "fused realigned"]
Axis = Literal["safety", "over-refusal", "skill", "other"]
Better = Literal["lower", "higher"]
BEFORE_ROLES = ("fine-tuned", "fused")
"""Roles of the models that repair starts from."""
OUR_ROLES = ("realigned", "fused realigned")
"""Roles of the models that a safety subspace repaired."""
REPAIRED_ROLES = (*OUR_ROLES, "baseline")
"""Roles of all models that were repaired, by whatever method."""

WAS_RIVAL: Final = BeforeValidator(lambda value: "baseline" if value == "rival" else value)
"""Older folders have ``rival`` for ``baseline``, of roles and of kinds of steps."""

RoleName = Annotated[str, WAS_RIVAL]
"""One of ``Role``, or another name that is shown as it is."""


class Record(BaseModel):
    """Immutable facts."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Described(Record):
    """What a model and its row in a table have in common.

    Attributes:
        label: What tables call it.
        name: The label without the seed; empty: the model is not one of several seeds.
        group: Task, ``start`` or ``fused``.
        role: One of ``Role``; any other is shown as it is.
        method: The method that made it.
        seed: Seed of its training.
        fusion: The fusion that it comes from.
        subspace: Folder of its safety subspace.
    """

    label: Text
    name: Text = ""
    group: Text = ""
    role: RoleName = ""
    method: Text | None = None
    seed: int | None = None
    fusion: Text | None = None
    subspace: str | None = None

    @property
    def title(self) -> str:
        """The label, always with the seed where there are several."""
        return f"{self.name}, seed {self.seed}" if self.name else self.label


class Model(Described):
    """A model of the study.

    Attributes:
        id: Its name in files; its results are in a folder of this name.
        step: The step that makes it; empty: it is given.
        pretrained: Model folder or hub id.
        peft: The adapter on it.
        tasks: The lm-eval tasks that measure it.
        choice: The file that records which strength was chosen.
    """

    id: Text
    step: str = ""
    pretrained: str = ""
    peft: str | None = None
    tasks: tuple[str, ...] = ()
    choice: str | None = None


class Training(Record):
    """A training of the study.

    Attributes:
        id: Its name in files.
        label: What the report calls it.
        name: The label without the seed; empty: the training is not one of several seeds.
        folder: Its output folder.
        stage: LLaMA-Factory's stage.
        seed: Its seed.
    """

    id: Text
    label: Text
    name: Text = ""
    folder: str
    stage: str = ""
    seed: int | None = None

    @property
    def title(self) -> str:
        """What the trainings that differ only in their seeds are called."""
        return self.name or self.label


class Judging(Record):
    """How a repair was judged: refusals by phrases, harm by a model, if any, which left some answers unjudged."""

    model: Text | None = None
    unjudged: int = 0


class Study(Record):
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
        outdated: Tables that had to be made again when it started last, each with its target.
        results: Folders of lm-eval's results; empty: not known.
        data: Names of the data sets that it makes or learns from; empty: not known.
        groups: What the page calls groups, where it is not their name.
        summary: The headline's sentence, where the writer knows more than the tables.
        judging: How answers were judged, where no results file of lm-eval says so.
    """

    title: Text
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=list)
    created: str | None = None
    models: list[Model] = Field(default_factory=list)
    trainings: list[Training] = Field(default_factory=list)
    tables: list[str] = Field(default_factory=list)
    outdated: dict[str, str] = Field(default_factory=dict)
    results: list[str] = Field(default_factory=list)
    data: list[str] = Field(default_factory=list)
    groups: dict[str, Text] = Field(default_factory=dict)
    summary: Text | None = None
    judging: Judging | None = None

    def group_label(self, group: str) -> str:
        """What the page calls a group."""
        return self.groups.get(group) or group or "models"


class Column(Record):
    """A column of a table.

    Attributes:
        key: Key of its cells.
        label: Heading.
        axis: What it measures.
        better: Which direction is good.
        task: lm-eval's task or group.
        metric: Its metric.
        share: Whether numbers between 0 and 1 are shares.
    """

    key: str
    label: Text
    axis: Axis = "other"
    better: Better | None = None
    task: str = ""
    metric: str = ""
    share: bool = True

    @classmethod
    def of(cls, task: str, metric: str, label: str, axis: Axis, better: Better | None) -> Column:
        """The column of a metric of lm-eval's."""
        return cls(key=f"{task}.{metric}", label=label, axis=axis, better=better, task=task, metric=metric)


class Tried(Record):
    """One of several strengths: its worst rate and the mean of all, and the rates by column."""

    score: tuple[float, float]
    rates: dict[str, float | None] = Field(default_factory=dict)


class Choice(Record):
    """``choices/ROW.json``: the best of several strengths, its model, and all that were tried."""

    strength: float
    model: str = ""
    tried: dict[str, Tried] = Field(default_factory=dict)


class Row(Described):
    """A model's row of a table.

    Attributes:
        model: The model's id.
        cells: By the columns' keys.
        choice: How its strength was chosen.
    """

    model: Text
    cells: dict[str, Cell] = Field(default_factory=dict)
    choice: Choice | None = None

    def cell(self, key: str) -> Cell:
        """The cell of a column; an empty one where the row has none."""
        return self.cells.get(key) or Cell()

    @field_serializer("cells")
    def _without_empty_reasons(self, cells: dict[str, Cell]) -> dict[str, dict[str, Any]]:
        return {key: cell.values() for key, cell in cells.items()}


class Table(Record):
    """``tables/NAME.json``.

    Attributes:
        name: File name without its suffix.
        title: Heading.
        description: A sentence or two.
        columns: In order.
        rows: In order.
        seeds: Of the study.
        versions: Of the plugin and its hosts.
        config: The study's resolved configuration.
    """

    name: str
    title: Text = ""
    description: Text = ""
    columns: list[Column] = Field(default_factory=list)
    rows: list[Row] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)
    versions: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Rows by group, in order of appearance."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found


class Command(Record):
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
    seconds: Finite = None
    log: str | None = None


class Marker(Record):
    """``steps/NAME.json``: a step that has ended well, with what it ran."""

    name: str = ""
    kind: str = ""
    fingerprint: str
    commands: list[str]
    files: dict[str, str] = Field(default_factory=dict)
    seconds: float
    log: str
    ended: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


class Failure(Record):
    """``steps/NAME.failed.json``: why a step failed, with the last lines of its log."""

    step: str
    log: str
    message: str
    tail: list[str]
