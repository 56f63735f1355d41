"""Which rows trainings read in full: what would be cut is left out, and told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from realign_plugin.data.answering.chats import rendered
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.plan import CUTOFF, SKILL_TOKENS

END: Final = 4
"""Tokens that a chat template puts behind an answer, at most."""
AnyRow = TypeVar("AnyRow", bound=Prompt | Example)


@dataclass(frozen=True)
class LeftOut:
    """Rows of some sources that a training would have cut.

    Attributes:
        option: What the user calls the sources.
        count: How many there are.
        seen: Among how many.
    """

    option: str
    count: int
    seen: int

    def __str__(self) -> str:
        return f"{self.option}: {self.count:,} of {self.seen:,} rows are left out, longer than {CUTOFF} tokens"


class Room:
    """What fits into a row of a training, prompt and answer.

    Attributes:
        left_out: What did not.
    """

    def __init__(self, tokenizer: Any, base: str, answer_tokens: int) -> None:
        """Nothing is left out yet.

        Args:
            tokenizer: The base model's.
            base: The base model: a folder or a hub id.
            answer_tokens: Tokens of an answer to a safety prompt, at most.
        """
        self._tokenizer, self._base, self._answer_tokens = tokenizer, base, answer_tokens
        self.left_out: list[LeftOut] = []

    def keep(self, rows: Iterable[AnyRow], option: str, most: int | None = None) -> list[AnyRow]:
        """The first rows that fit; those behind them are not looked at.

        Args:
            rows: Prompts, or rows of the skill.
            option: What the user calls their sources.
            most: How many are needed; None: all.

        Raises:
            UserError: If the chat template refuses one.
        """
        kept: list[AnyRow] = []
        count = 0
        for row in rows:
            if len(kept) == most:
                break
            if self.tokens(row) <= CUTOFF:
                kept.append(row)
            else:
                count += 1
        if count:
            self.left_out.append(LeftOut(option, count, count + len(kept)))
        return kept

    def tokens(self, row: Prompt | Example) -> int:
        """Tokens of a row with its answer, or with the longest that a model may give."""
        if isinstance(row, Prompt):
            prompt, answer = row, self._answer_tokens
        else:
            prompt, answer = row.prompt, self._count(row.answer) if row.answer else SKILL_TOKENS
        return self._count(rendered(self._tokenizer, prompt, self._base, "BASE")) + answer + END

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
