"""A judge against people: precision, recall and agreement on answers that people labelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.coherence import incoherence
from realign_plugin.evaluation.answers.refusals import refuses
from realign_plugin.evaluation.answers.thinking import final_answer
from realign_plugin.evaluation.assessment import REFUSED
from realign_plugin.evaluation.data import placed_rows
from realign_plugin.evaluation.judging.prompts import Item
from realign_plugin.evaluation.metrics.kappa import Kappa, kappa_of
from realign_plugin.evaluation.metrics.rates import Rate, describe
from realign_plugin.evaluation.session import Session

About = Literal["harmful", "refusal"]
PROMPTS: Final = ("prompt", "question", "instruction", "objective", "goal")
ANSWERS: Final = ("answer", "response", "assistant_response", "output", "completion")
LABELS: Final[dict[str, About]] = {"harmful": "harmful", "refusal": "refusal"}
YES: Final = ("1", "1.0", "true", "yes", "harmful", "unsafe", "refusal")
NO: Final = ("0", "0.0", "false", "no", "unharmful", "safe", "answer")
PHRASES: Final = "phrases"
"""The name of the detector by phrases, next to the judges."""


@dataclass(frozen=True)
class Labelled:
    """One answer with what people say of it.

    Attributes:
        item: Prompt and answer.
        about: What the label is about.
        label: Whether the answer is harmful, or refuses.
    """

    item: Item
    about: About
    label: bool


@dataclass(frozen=True)
class Calibration:
    """One judge against the labels.

    Attributes:
        judge: Its name.
        model: Its model.
        about: What the labels are about.
        kappa: Agreement; ``first`` counts what only the judge says, ``second`` what only people say.
        unjudged: Answers without a verdict.
    """

    judge: str
    model: str
    about: About
    kappa: Kappa | None
    unjudged: int

    @property
    def precision(self) -> Rate | None:
        """Share of what the judge calls so that people do too."""
        found = self.kappa
        return Rate(found.both, found.both + found.first) if found is not None and found.both + found.first else None

    @property
    def recall(self) -> Rate | None:
        """Share of what people call so that the judge does too; of those with a verdict."""
        found = self.kappa
        return Rate(found.both, found.both + found.second) if found is not None and found.both + found.second else None

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: every number with its interval and counts."""
        numbers = {"precision": self.precision, "recall": self.recall, "kappa": self.kappa}
        found = {
            name: None if value is None else {"value": None if value.undefined else float(value)} | (described or {})
            for name, value in numbers.items()
            for described in [None if value is None else describe(value)]
        }
        return {"judge": self.judge, "model": self.model, "about": self.about, "unjudged": self.unjudged} | found


def read_labelled(file: Path) -> list[Labelled]:
    """Read answers with labels: JSON, JSON Lines or CSV with a prompt, an answer, and ``harmful`` or ``refusal``.

    Raises:
        UserError: If the file cannot be read, lacks a column, or a label is neither yes nor no.
    """
    placed = placed_rows(file, what="--calibrate")
    if not placed:
        raise UserError(f"--calibrate: {file} holds no row, expected labelled answers; check the file")
    columns = {str(key).lower(): key for key in placed[0].values}
    found = [next((columns[c] for c in names if c in columns), None) for names in (PROMPTS, ANSWERS, LABELS)]
    missing = [w for w, c in zip(("prompt", "answer", "harmful or refusal"), found, strict=True) if c is None]
    if missing:
        raise UserError(
            f"--calibrate: {file} has the columns {', '.join(map(str, placed[0].values))[:200]}, expected also "
            f"{' and '.join(missing)}; rename or add them"
        )
    prompt, answer, label = (str(column) for column in found)
    about = LABELS[label.lower()]
    labelled = []
    for number, one in enumerate(placed, 1):
        row = one.values
        said = str(row.get(label)).strip().lower()
        if said not in (*YES, *NO) or not isinstance(row.get(prompt), str) or not isinstance(row.get(answer), str):
            raise UserError(
                f"--calibrate: {one.unit} {one.number} of {file} has {label} {str(row.get(label))[:40]!r}, expected "
                "a prompt and an answer as text, and a label that is 1 or 0, true or false, yes or no; fix it"
            )
        labelled.append(Labelled(Item(str(number), row[prompt], row[answer]), about, said in YES))
    return labelled


def calibrate(labelled: Sequence[Labelled], session: Session) -> list[Calibration]:
    """Set the phrases and each of the session's judges against the labels.

    Args:
        labelled: Answers whose labels are about one and the same thing.
        session: The judges.

    Raises:
        UserError: If a judge cannot tell what the labels are about.
    """
    about = labelled[0].about
    for judge in session.judges:
        if judge.chosen.guard is not None and about not in judge.chosen.guard.feeds:
            raise UserError(
                f"judge: {judge.chosen.name!r} does not tell {about}, which the labels are about, expected a judge "
                "that does; use another judge"
            )
    rows = [_against(labelled, PHRASES, "", (_by_phrases(one.item.answer, about) for one in labelled))]
    # As an evaluation asks: about what follows the thinking, where that is an answer at all.
    answers = [final_answer(one.item.answer) or "" for one in labelled]
    asked = [number for number, answer in enumerate(answers) if incoherence(answer) is None]
    for judge in session.judges:
        moderated = about == "harmful" and judge.settings.judge_mode == "moderation"
        items = [replace(labelled[n].item, answer=answers[n]) for n in asked]
        verdicts = judge.judge("moderation" if moderated else about, items)
        labels = {number: verdict.label for number, verdict in zip(asked, verdicts, strict=True)}
        given = (labels.get(number, "") for number in range(len(labelled)))
        said = (None if label is None else label in ("harmful", *REFUSED) for label in given)
        rows.append(_against(labelled, judge.chosen.name, judge.model, said))
    return rows


def _by_phrases(text: str, about: About) -> bool:
    """What the phrases make of an answer: harmful is what is coherent and does not refuse."""
    answer = final_answer(text) or ""
    refused = refuses(answer)
    return refused if about == "refusal" else not refused and incoherence(answer) is None


def _against(labelled: Sequence[Labelled], judge: str, model: str, said: Iterable[bool | None]) -> Calibration:
    pairs = [(mine, one.label) for one, mine in zip(labelled, said, strict=True) if mine is not None]
    kappa = kappa_of(pairs) if pairs else None
    return Calibration(judge, model, labelled[0].about, kappa, len(labelled) - len(pairs))
