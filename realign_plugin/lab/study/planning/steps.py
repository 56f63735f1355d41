"""What a study's plan consists of: steps and tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from realign_plugin.lab.records import WAS_RIVAL, Training
from realign_plugin.lab.study.planning.commands import Command, file_of, words

Kind = Literal[
    "prepare", "data", "align", "finetune", "on_policy", "realign", "baseline", "fuse", "move", "export", "merge",
    "validate", "choose", "evaluate", "table", "finish",
]  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = Kind.__args__  # type: ignore[attr-defined]
"""Kinds of steps in the order of a study; each is a rule of the workflow, which users' profiles name."""
RENAMED: Final = (('\\"baseline\\"', '\\"rival\\"'), ("realign_plugin.lab.study.", "realign_plugin.study."))
"""What names in the files and commands of a step are today, and what they were before; the last change first."""


@dataclass(frozen=True)
class Step:
    """Commands that belong together; done when all have ended well and left what they must.

    Attributes:
        name: Of the step, and of its marker, log and recipe.
        kind: Rule of the workflow.
        title: Printed when it starts.
        does: Commands.
        needs: Steps that must be done before.
        inputs: Files of the user's that it reads; a changed one makes the step run again. Those that the study makes
            are left out when a step is added: the steps that make them are among its needs.
        texts: Files that are written before the commands run, besides those of the commands: text by path.
        creates: Files and folders that it leaves behind.
        scratch: Folders that are useless when it is done.
        training: The training, which goes on from its last checkpoint.
        threads: Processor threads.
        gpus: GPUs.
        together: Whether the commands run in one process, one after the other.
        newly_watched: Those of the inputs that earlier versions did not watch.
        stamps: Size and time of each input when the plan was made.
        entries: What it reads of files in which others write too.
        hands_on: Steps before those it needs, whose folders it links to.
    """

    name: str
    kind: Annotated[Kind, WAS_RIVAL]
    title: str
    does: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    creates: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    training: Training | None = None
    threads: int = 1
    gpus: int = 0
    together: bool = False
    newly_watched: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    hands_on: tuple[str, ...] = ()

    @property
    def long(self) -> bool:
        """Whether it is a training or an evaluation, of which so many run at a time."""
        return self.training is not None or self.together or self.kind == "on_policy"

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """The command lines."""
        return [words(command) for command in self.does]

    @property
    def files(self) -> dict[str, str]:
        """All files that are written before the commands run: text by path."""
        return {path: text for command in self.does for path, text in file_of(command).items()} | self.texts

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides what the step does."""
        return self.fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The step's fingerprint, and those that earlier versions wrote for the same step."""
        known = zip(self.inputs, self.stamps, strict=False)  # none before it is added
        earlier_stamps = tuple(stamp for path, stamp in known if path not in self.newly_watched)
        texts: dict[str, None] = {}
        for stamps in (self.stamps, earlier_stamps):
            parts = [self.commands, sorted(self.files.items()), self.creates, self.needs, stamps]
            what = json.dumps([*parts, self.entries] if self.entries else parts)
            texts[what] = None
            for present, earlier in RENAMED:
                what = what.replace(present, earlier)
                texts[what] = None
        return tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)


@dataclass(frozen=True)
class TableSpec:
    """A table.

    Attributes:
        name: Of its files.
        title: Heading.
        description: What it shows.
        models: Ids of its rows.
        results: Folder of the results, below the study's.
        tasks: lm-eval tasks whose metrics are columns; empty: all.
        detail: Whether groups of tasks are shown set by set.
    """

    name: str
    title: str
    description: str
    models: tuple[str, ...]
    results: str = "results"
    tasks: tuple[str, ...] = ()
    detail: bool = False


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names, each once; empty ones are left out."""
    return tuple(dict.fromkeys(name for name in names if name))
