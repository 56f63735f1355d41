"""How a model continues the skill's reference answers, token by token, next to the fine-tuned one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.progress import counted
from realign_plugin.evaluation.answers.thinking import opened_by
from realign_plugin.lab.repair.readings import SkillReading

if TYPE_CHECKING:
    from torch import Tensor

FINE_TUNED: Final = "fine-tuned"
ROWS: Final = 8
"""Rows whose logits are looked at together: [rows, tokens, vocabulary] has to fit."""
REMEMBERED_BYTES: Final = 1 << 30


class SkillReader:
    """Reads models on the same rows; what the head saw of the fine-tuned model is remembered while there is room."""

    def __init__(self, most_bytes: int = REMEMBERED_BYTES) -> None:
        """Start empty.

        Args:
            most_bytes: How much is remembered.
        """
        self._known: dict[tuple[Example, ...], Tensor] = {}
        self._left = most_bytes

    def read(self, load: Callable[[], Answerer], name: str, rows: Sequence[Example]) -> list[SkillReading]:
        """How a model continues the answers.

        Args:
            load: Gives the models.
            name: Which of them.
            rows: Prompts with their reference answers.
        """
        if not rows:
            return []
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].prompt.text) + len(rows[row].answer))
        found: dict[int, SkillReading] = {}
        with counted(f"skill of {name}", len(rows)) as advance:
            for start in range(0, len(rows), ROWS):
                some = order[start : start + ROWS]  # of similar length: padding takes as long as text
                found |= zip(some, self._batch(load(), name, tuple(rows[row] for row in some)), strict=True)
                advance(len(some))
        return [found[row] for row in range(len(rows))]

    def _batch(self, answerer: Answerer, name: str, rows: tuple[Example, ...]) -> list[SkillReading]:
        """Readings of some rows, of fewer at a time where memory does not suffice."""
        import torch

        try:
            return self._at_once(answerer, name, rows)
        except torch.cuda.OutOfMemoryError:
            if len(rows) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return [*self._batch(answerer, name, rows[:half]), *self._batch(answerer, name, rows[half:])]

    def _at_once(self, answerer: Answerer, name: str, rows: tuple[Example, ...]) -> list[SkillReading]:
        import torch
        from torch.nn.functional import cross_entropy

        from realign_plugin.method.divergence import token_divergence

        ids, mask, ends = _tokens(answerer, rows)
        last = 1 + max(map(len, ends))

        known = self._known.get(rows)
        mine, seen = answerer.logits(name, ids, mask, last, known)
        tuned = mine
        if known is not None:
            mine, tuned = mine[: len(rows)], mine[len(rows) :]
        elif name != FINE_TUNED:
            tuned, seen = answerer.logits(FINE_TUNED, ids, mask, last)
        size = seen.numel() * seen.element_size()
        if known is None and answerer.one_head and size <= self._left:
            self._left -= size
            self._known[rows] = seen
        found = []
        for number, end in enumerate(ends):
            place = slice(last - 1 - len(end), last - 1)
            pair = torch.stack([logits[number, place] for logits in (mine, tuned)])
            target = torch.tensor(end, device=pair.device)
            found.append(
                SkillReading(
                    tokens=len(end),
                    correct=int((pair[0].argmax(-1) == target).sum()),
                    loss=float(cross_entropy(pair[0].float(), target, reduction="sum")),
                    divergence=max(0.0, float(token_divergence(pair).sum())),
                )
            )
        return found


def _tokens(answerer: Answerer, rows: Sequence[Example]) -> tuple[Any, Any, list[list[int]]]:
    """Ids and mask ``[rows, tokens]``, padded on the left, and each row's answer with its end."""
    import torch

    tokenizer = answerer.tokenizer
    texts = [answerer.text(row.prompt) for row in rows]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answers = [row.answer.removeprefix(opened_by(text)) for text, row in zip(texts, rows, strict=True)]
    ends = [tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for answer in answers]
    longest = max(len(p) + len(e) for p, e in zip(prompts, ends, strict=True))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for number, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        ids[number, longest - len(prompt) - len(end) :] = torch.tensor(prompt + end)
        mask[number, longest - len(prompt) - len(end) :] = 1
    return ids, mask, ends
