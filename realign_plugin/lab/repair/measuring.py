"""Asks a model and its adapters the prompts of a part, and reads their answers; an interrupted run resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.data.answering.journal import Journal
from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.evaluation.answers.thinking import final_answer
from realign_plugin.evaluation.assessment import Kind, assess
from realign_plugin.files import write_json
from realign_plugin.lab.repair.parts import Part
from realign_plugin.lab.repair.plan import SKILL_TOKENS
from realign_plugin.lab.repair.readings import Reading, Readings
from realign_plugin.lab.repair.skill import FINE_TUNED, SkillReader
from realign_plugin.text_files import checked, read_json

if TYPE_CHECKING:
    from realign_plugin.evaluation.session import Session

ALIGNED: Final = "aligned"


class Measurer:
    """Measures models that share a base: each an adapter, or the base itself.

    The models are loaded when the first answer is missing.
    """

    def __init__(
        self,
        folder: Path,
        base: str,
        adapters: Mapping[str, Path | None],
        *,
        batch_size: int,
        answer_tokens: int = 64,
        session: Session | None = None,
        answerer: Callable[..., Answerer] = Answerer,
    ) -> None:
        """Load nothing yet.

        Args:
            folder: Where answers and readings are kept.
            base: The base model.
            adapters: By name; None for the base itself. ``aligned`` and ``fine-tuned`` are among them.
            batch_size: How many prompts are answered at a time.
            answer_tokens: Tokens of an answer to a safety prompt, at most.
            session: The judge; None where refusals are detected by phrases alone.
            answerer: What loads the models.
        """
        self._folder, self._base, self._adapters = folder, base, dict(adapters)
        self._batch_size, self._session, self._answerer = batch_size, session, answerer
        self._answer_tokens = answer_tokens
        self._loaded: Answerer | None = None
        self._reader = SkillReader()

    def add(self, name: str, adapter: Path) -> None:
        """Add a model."""
        self._adapters[name] = adapter
        if self._loaded is not None:
            self._loaded.add(name, adapter)

    def close(self) -> None:
        """Free the models."""
        self._loaded, self._reader = None, SkillReader()

    def _load(self) -> Answerer:
        if self._loaded is None:
            self._loaded = self._answerer(self._base, self._adapters)
        return self._loaded

    def measure(self, name: str, part_name: str, part: Part) -> Readings:
        """Read a model's answers to a part."""
        file = self._folder / part_name / f"{name}.json"
        if file.exists():
            return checked(Readings, read_json(file, "", "what was measured"), str(file), "delete the file")
        said, reference = (self._answers(one, part_name, part) for one in (name, ALIGNED))
        kinds: dict[Kind, Sequence[Any]] = {"harmful": part.harmful, "benign": part.benign}
        found = {
            kind: _readings(prompts, said[kind], reference[kind], self._session, kind)
            for kind, prompts in kinds.items()
        }
        skill = self.skill_rows(part_name, part)
        readings = Readings(**found, skill=self._reader.read(self._load, name, skill))  # type: ignore[arg-type]
        if not any(one.unjudged for one in readings.harmful):  # else the judge is asked again next time
            write_json(file, readings.model_dump())
        return readings

    def skill_rows(self, part_name: str, part: Part) -> Sequence[Example]:
        """The skill's rows with their answers: the fine-tuned model's own, if finished, where the data has none."""
        if not part.skill or part.skill[0].answer:
            return part.skill
        prompts = [row.prompt for row in part.skill]
        said = self.answers(FINE_TUNED, f"{part_name}/skill", prompts, SKILL_TOKENS)
        return [Example(prompt, answer) for prompt, answer in zip(prompts, said, strict=True) if final_answer(answer)]

    def answers(self, name: str, where: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        """A model's answers, kept in a file.

        Args:
            name: The model.
            where: Folder of the file, within this one's folder.
            prompts: What it is asked.
            max_tokens: Maximum tokens of an answer.
        """
        journal = Journal(
            self._folder / where / f"{name}.answers.jsonl",
            {"model": self._base, name: self._adapters[name]},
            {"batch_size": self._batch_size},
            overwrite=True,
        )
        with journal:
            return journal.answers([(name, prompts, max_tokens)], self._load)[0]

    def _answers(self, name: str, part_name: str, part: Part) -> dict[Kind, list[str]]:
        kinds: dict[Kind, Sequence[Prompt]] = {"harmful": part.harmful, "benign": part.benign}
        return {
            kind: self.answers(name, f"{part_name}/{kind}", prompts, self._answer_tokens)
            for kind, prompts in kinds.items()
        }


def _readings(
    prompts: Sequence[Prompt], answers: Sequence[str], reference: Sequence[str], session: Session | None, kind: Kind
) -> list[Reading]:
    """Readings of a model's answers, next to the aligned model's."""
    from realign_plugin.evaluation.judging.prompts import Item

    items = [
        Item(str(number), prompt.text, answer, other)
        for number, (prompt, answer, other) in enumerate(zip(prompts, answers, reference, strict=True))
    ]
    found = assess(items, None, kind)
    # The judge is not asked which of the two answers it prefers, only what it thinks of the one.
    asked = session is not None and kind == "harmful"
    judged = assess([replace(item, reference=None) for item in items], session, kind) if asked else found
    rates = [one.metrics().get("harmful_rate") for one in judged]
    return [
        Reading(
            refuses=one.refusal,
            incoherent=one.incoherent is not None,
            agrees=one.agreement if isinstance(one.agreement, bool) else None,
            harmful=bool(rate) if isinstance(rate, float) else None,
            unjudged=asked and rate is None,
        )
        for one, rate in zip(found, rates, strict=True)
    ]
