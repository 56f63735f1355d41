"""What the tasks of one run share: the judge, what became of it, and the answers it could not judge."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from realign_plugin.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from realign_plugin.evaluation.judge import Judge


@dataclass
class Session:
    """The judge of one run of lm-eval in one process.

    Attributes:
        settings: What the run was asked for.
        checked: Whether the judge was found to answer.
        told: Whether it was said that there is no judge.
    """

    settings: EvaluationSettings
    checked: bool = False
    told: bool = field(default=False, repr=False)

    @property
    def judging(self) -> bool:
        """Whether answers are judged."""
        return self.settings.judge != "off"

    @cached_property
    def judge(self) -> Judge:
        """The judge; made when it is first needed."""
        from realign_plugin.evaluation.judge import Judge

        return Judge(self.settings)

    def prepare(self) -> None:
        """Before anything is generated: see that the judge answers, or say once that there is none.

        Raises:
            UserError: If the judge's server is not there, or does not take the key or the model.
        """
        if self.judging and not self.checked:
            self.judge.check()
            self.checked = True
        elif not self.judging and not self.told:
            self.told = True
            print(
                "realign-plugin: no judge (judge: off); refusal_rate is read off phrases, harmful_rate is left "
                "out. Set OPENAI_API_KEY, or `realign judge` the samples later.",
                file=sys.stderr,
            )

    @property
    def failure(self) -> str | None:
        """The one line that says why judging broke off or came to nothing, or None."""
        return self.judge.report.failure if "judge" in self.__dict__ else None

    def report(self) -> dict[str, Any]:
        """What the results file says of the judge: settings without secrets, prompt versions, calls, tokens."""
        from realign_plugin.evaluation.prompts import VERSIONS

        record: dict[str, Any] = {"judge": self.settings.judge}
        if self.judging:
            record |= {"model": self.settings.judge_model, "mode": self.settings.judge_mode, "prompts": dict(VERSIONS)}
            record["order"] = self.settings.judge_order
        if "judge" in self.__dict__:
            record["report"] = self.judge.report.to_dict()
        return record


_current: Session | None = None


def session(settings: EvaluationSettings | None = None) -> Session | None:
    """The session of this process: made for ``settings``, the same one as long as they stay the same.

    Args:
        settings: What a task of the run was asked for; None asks for the session as it is.
    """
    global _current
    if settings is not None and (_current is None or _current.settings != settings):
        _current = Session(settings)
    return _current


def reset() -> None:
    """Forget the session; a new run starts with a new judge."""
    global _current
    _current = None
