"""One example as it is written: a prompt with its answer, or with a chosen and a rejected one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from realign_plugin.data.columns import DroppedError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked.

    Attributes:
        instruction: The request, or its first part.
        input: Its second part (alpaca's column); LLaMA-Factory joins the two with a line break.
        system: System prompt.
        history: Earlier turns, each a request and its answer.
    """

    instruction: str
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The request as LLaMA-Factory joins it."""
        return "\n".join(part for part in (self.instruction, self.input) if part)

    @property
    def opening(self) -> str:
        """The first request of the conversation: what the split goes by, so that no opening is in both halves."""
        return self.history[0][0] if self.history else self.text


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    Attributes:
        prompt: What the model is asked.
        answer: Its answer; the chosen one of a pair.
        rejected: The rejected answer of a pair; None for fine-tuning data.
        rejected_drawn: Whether ``rejected`` was drawn from a list, and so is no part of the example's identity.
    """

    prompt: Prompt
    answer: str
    rejected: str | None = None
    rejected_drawn: bool = False

    def checked(self) -> Example:
        """Itself, if it is worth training on.

        Raises:
            DroppedError: If the prompt or an answer is empty, or both answers are the same.
        """
        if not self.prompt.text.strip():
            raise DroppedError("empty prompt")
        if not self.answer.strip() or (self.rejected is not None and not self.rejected.strip()):
            raise DroppedError("empty answer")
        if self.answer == self.rejected:
            raise DroppedError("chosen equals rejected")
        return self

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other examples: duplicates and limits go by it."""
        turns = [part for turn in self.prompt.history for part in turn]
        rejected = [] if self.rejected is None or self.rejected_drawn else [self.rejected]
        return (self.prompt.system, str(len(turns)), *turns, self.prompt.text, self.answer, *rejected)

    def reversed_key(self) -> tuple[str, ...] | None:
        """The key of the pair that prefers the other answer; None where there is no such pair."""
        if self.rejected is None or self.rejected_drawn:
            return None
        return Example(self.prompt, self.rejected, self.answer).key

    def row(self) -> dict[str, Any]:
        """The row in LLaMA-Factory's alpaca layout; ``system`` and ``history`` only where there are any."""
        row: dict[str, Any]
        if self.rejected is None:
            row = {"instruction": self.prompt.instruction, "input": self.prompt.input, "output": self.answer}
        else:
            row = {"prompt": self.prompt.text, "chosen": self.answer, "rejected": self.rejected}
        if self.prompt.system:
            row["system"] = self.prompt.system
        if self.prompt.history:
            row["history"] = [list(turn) for turn in self.prompt.history]
        return row
