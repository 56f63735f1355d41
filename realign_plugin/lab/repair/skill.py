"""How a model continues the skill's reference answers, token by token, next to the fine-tuned one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.rows.examples import Example
from realign_plugin.data.rows.progress import counted
from realign_plugin.lab.repair.plan import CUTOFF
from realign_plugin.lab.repair.readings import SkillReading

if TYPE_CHECKING:
    from torch import Tensor

FINE_TUNED: Final = "fine-tuned"
ROWS: Final = 8
"""Rows whose logits are looked at together: [rows, tokens, vocabulary] has to fit."""
REMEMBERED_BYTES: Final = 1 << 30


class SkillReader:
    """Reads models on the same rows; the fine-tuned model's logits are remembered as long as there is room."""

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
        found: list[SkillReading] = []
        if not rows:
            return found
        with counted(f"skill of {name}", len(rows)) as advance:
            for start in range(0, len(rows), ROWS):
                some = tuple(rows[start : start + ROWS])
                found += self._batch(load(), name, some)
                advance(len(some))
        return found

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
        from torch.nn.functional import cross_entropy, kl_div

        ids, mask, ends = _tokens(answerer, rows)
        last = 1 + max(map(len, ends))

        def theirs() -> Tensor:
            if rows not in self._known:
                logits: Tensor = answerer.logits(FINE_TUNED, ids, mask, last)
                size = logits.numel() * logits.element_size()
                if size > self._left:
                    return logits
                self._left -= size
                self._known[rows] = logits
            return self._known[rows]

        teacher = theirs()
        logits = teacher if name == FINE_TUNED else answerer.logits(name, ids, mask, last)
        found = []
        for number, end in enumerate(ends):
            place = slice(last - 1 - len(end), last - 1)
            target = torch.tensor(end, device=logits.device)
            mine, tuned = (one[number, place].float().log_softmax(-1) for one in (logits, teacher))
            found.append(
                SkillReading(
                    tokens=len(end),
                    correct=int((mine.argmax(-1) == target).sum()),
                    loss=float(cross_entropy(mine, target, reduction="sum")),
                    divergence=max(0.0, float(kl_div(mine, tuned, log_target=True, reduction="sum"))),
                )
            )
        return found


def _tokens(answerer: Answerer, rows: Sequence[Example]) -> tuple[Any, Any, list[list[int]]]:
    """Ids and mask ``[rows, tokens]``, padded on the left, and each row's answer with its end.

    Rows have at most ``CUTOFF`` tokens, as in training: half of them at least for the answer's start, the others for
    the prompt's end.
    """
    import torch

    tokenizer = answerer.tokenizer
    prompts = [tokenizer(answerer.text(row.prompt), add_special_tokens=False)["input_ids"] for row in rows]
    ends = [tokenizer(row.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for row in rows]
    ends = [end[: max(CUTOFF // 2, CUTOFF - len(prompt))] for prompt, end in zip(prompts, ends, strict=True)]
    prompts = [prompt[max(0, len(prompt) + len(end) - CUTOFF) :] for prompt, end in zip(prompts, ends, strict=True)]
    longest = max(len(p) + len(e) for p, e in zip(prompts, ends, strict=True))
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for number, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        ids[number, longest - len(prompt) - len(end) :] = torch.tensor(prompt + end)
        mask[number, longest - len(prompt) - len(end) :] = 1
    return ids, mask, ends
