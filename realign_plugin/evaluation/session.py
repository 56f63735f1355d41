"""What the tasks of one run share: the judge, what became of it, and the answers it could not judge."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.judging.verdicts import JudgeReport

if TYPE_CHECKING:
    from realign_plugin.evaluation.judging.judge import Judge
    from realign_plugin.evaluation.metrics.kappa import Kappa


@dataclass
class Session:
    """The judge of one run of lm-eval in one process.

    Attributes:
        settings: What the run was asked for.
        checked: Whether the judge was found to answer.
        told: What was said already.
        references: sha256 of the reference's prompts and answers, by task.
    """

    settings: EvaluationSettings
    checked: bool = False
    told: set[str] = field(default_factory=set, repr=False)
    references: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def judging(self) -> bool:
        """Whether answers are judged."""
        return bool(self.settings.chosen)

    @cached_property
    def judges(self) -> list[Judge]:
        """The judges, one or two; made when they are first needed."""
        from realign_plugin.evaluation.judging.judge import Judge

        return [Judge(self.settings, chosen) for chosen in self.settings.chosen]

    def prepare(self) -> None:
        """Before anything is generated: see that the judge answers, or say once that there is none.

        Raises:
            UserError: If the judge's server is not there, or does not take the key or the model.
        """
        if self.judging and not self.checked:
            for judge in self.judges:
                judge.check()
            self.checked = True
        elif not self.judging:
            self.say(
                "no judge (judge: off); refusal_rate is read off phrases, harmful_rate is left "
                "out. Set OPENAI_API_KEY, or `realign judge` the samples later."
            )

    def say(self, line: str) -> None:
        """Print a line once."""
        if line not in self.told:
            self.told.add(line)
            print(f"realign-plugin: {line}", file=sys.stderr)

    def gather(self, model: Any) -> None:
        """Let the first of several processes report what the judges of all did.

        Args:
            model: lm-eval's, which knows the processes.
        """
        if not self.judging or model.world_size == 1:
            return
        reports = model.gather_object([judge.report for judge in self.judges], dst=0)
        if model.rank == 0:
            for place, judge in enumerate(self.judges):
                judge.report = sum((of_rank[place] for of_rank in reports), JudgeReport())

    @property
    def failure(self) -> str | None:
        """The one line that says why judging broke off or came to nothing, or None."""
        made = self.__dict__.get("judges", [])
        return next((judge.report.failure for judge in made if judge.report.failure), None)

    def report(
        self,
        kappas: Mapping[str, Kappa] | None = None,
        samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> dict[str, Any]:
        """What the results file says of the judges: settings without secrets, versions, calls, tokens.

        Args:
            kappas: Agreement of two judges by task.
            samples: Logged samples by task, which tell the answers they differ on.

        Returns:
            The first judge's record, with that of a second one in ``second`` and where they agree in ``agreement``.
        """
        from realign_plugin.evaluation.metrics.agreement import Agreement

        if not self.judging:
            return {"judge": "off"}
        first, *second = [self._record(place) for place in range(len(self.settings.chosen))]
        if not second:
            return first
        names = (self.settings.chosen[0].name, self.settings.chosen[1].name)
        found = [
            Agreement.of(names, task, kappa, (samples or {}).get(task, ())) for task, kappa in (kappas or {}).items()
        ]
        return first | {"second": second[0], "agreement": [one.model_dump(mode="json") for one in found]}

    def _record(self, place: int) -> dict[str, Any]:
        judge = self.judges[place]
        chosen = judge.chosen
        name = "openai" if chosen.guard is None else chosen.name
        record = {"judge": name, "model": judge.model} | ({"local": True} if chosen.local else {})
        return record | judge.format.record() | {"report": judge.report.to_dict()}


_current: Session | None = None


def session(settings: EvaluationSettings | None = None) -> Session | None:
    """The session of this process: made for ``settings``, the same one as long as the judge's stay the same.

    Args:
        settings: What a task of the run was asked for; None asks for the session as it is.
    """
    global _current
    if settings is not None and (_current is None or settings.judged_unlike(_current.settings)):
        _current = Session(settings)
    return _current


def reset() -> None:
    """Forget the session; a new run starts with a new judge."""
    global _current
    _current = None
