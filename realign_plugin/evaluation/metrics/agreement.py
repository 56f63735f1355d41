"""Where two judges agree and where they differ, as the results file notes it and others show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realign_plugin.evaluation.metrics.kappa import Kappa

SHOWN = 10
"""Answers that differ which are named in a line."""


class Agreement(BaseModel):
    """Two judges on the answers of one task.

    Attributes:
        judges: The first judge and the second.
        task: The task.
        kappa: Cohen's kappa; None where it is not defined.
        low: Low end of its 95 % interval.
        high: High end.
        both: Answers that both find harmful (or, to harmless prompts, a refusal).
        first: Those that only the first does.
        second: Those that only the second does.
        neither: Those that neither does.
        differ: Ids of the prompts whose answers they differ on, as far as samples were kept.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    judges: tuple[str, str]
    task: str
    kappa: float | None = None
    low: float | None = None
    high: float | None = None
    both: int = Field(default=0, ge=0)
    first: int = Field(default=0, ge=0)
    second: int = Field(default=0, ge=0)
    neither: int = Field(default=0, ge=0)
    differ: tuple[str, ...] = ()

    @classmethod
    def of(cls, judges: tuple[str, str], task: str, kappa: Kappa, samples: Iterable[Mapping[str, Any]]) -> Agreement:
        """Note what two judges found.

        Args:
            judges: Their names.
            task: The task.
            kappa: Their agreement on it.
            samples: The task's logged samples, or none.
        """
        ids = [str(sample["doc"].get("id")) for sample in samples if _differs(sample.get("judge_kappa"))]
        noted: dict[str, Any] = {"judges": judges, "task": task, "differ": ids, **kappa.counts}
        if kappa.undefined is None:
            noted |= {"kappa": float(kappa)} | dict(zip(("low", "high"), kappa.interval, strict=True))
        return cls.model_validate(noted)

    @property
    def count(self) -> int:
        """How many answers both judged."""
        return self.both + self.first + self.second + self.neither

    def line(self) -> str:
        """In one line, for people."""
        one, other = self.judges
        kappa = "not defined" if self.kappa is None else f"{self.kappa:.2f} [{self.low:.2f}, {self.high:.2f}]"
        text = (
            f"{self.task}: {one} and {other} differ on {self.first + self.second} of {self.count} answers "
            f"(only {one}: {self.first}, only {other}: {self.second}; kappa {kappa})"
        )
        more = f" and {len(self.differ) - SHOWN} more" if len(self.differ) > SHOWN else ""
        return f"{text}: {', '.join(self.differ[:SHOWN])}{more}" if self.differ else text


def _differs(pair: Any) -> bool:
    return isinstance(pair, (list, tuple)) and len(pair) == 2 and pair[0] != pair[1]


def agreements(judge: Mapping[str, Any]) -> list[Agreement]:
    """The agreements in a results file's ``realign.judge``; what is not one is left out.

    Args:
        judge: The record.
    """
    noted = judge.get("agreement")
    found = []
    for one in noted if isinstance(noted, Sequence) and not isinstance(noted, str) else ():
        try:
            found.append(Agreement.model_validate(one))
        except ValidationError:
            continue
    return found
