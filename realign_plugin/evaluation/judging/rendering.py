"""How a local judge's chat template takes a question: as text or typed parts, with a system's turn or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from realign_plugin.errors import UserError, reason
from realign_plugin.evaluation.judging.guards.guard import RAW, Question


@dataclass(frozen=True)
class Rendering:
    """What a chat template is given.

    Attributes:
        parts: Whether a turn's content is a list of typed parts; templates of models that also take pictures, such as
            Llama Guard 3 1B's, make nothing of a plain text, without an error.
        system: Whether there is a turn of the system; else its text stands before the user's.
    """

    parts: bool = False
    system: bool = True

    @classmethod
    def of(cls, tokenizer: Any, questions: Sequence[Question], path: str) -> Rendering:
        """The first rendering that leaves all texts of the questions in what the model continues.

        Args:
            tokenizer: Has the chat template.
            questions: One in each form that is asked.
            path: The model, for the error.

        Raises:
            UserError: If there is none.
        """
        why = ""
        for system, parts in product((True, False), (False, True)):
            rendering = cls(parts, system)
            try:
                if all(rendering._whole(tokenizer, question) for question in questions):
                    return rendering
            except Exception as error:  # a template is a program of its own, and may raise what it likes
                why = why or reason(error)
        raise UserError(
            f"judge_model: the chat template of {path!r} cannot render a question to a judge "
            f"({why or 'it leaves out the texts of the turns'}), expected one for the turns of a user and an "
            "assistant; use another model, or correct its chat_template.jinja"
        )

    def text(self, tokenizer: Any, question: Question) -> str:
        """What the model continues."""
        if question.path == RAW:
            return str(question.fields["prompt"])
        given = question.fields.get("chat_template_kwargs", {})
        turns = self._turns(question)
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given))

    def _turns(self, question: Question) -> list[dict[str, Any]]:
        turns = list(question.fields["messages"])
        if not self.system and turns[0]["role"] == "system":
            first, user, *rest = turns
            turns = [user | {"content": f"{first['content']}\n\n{user['content']}"}, *rest]
        if self.parts:
            turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return turns

    def _whole(self, tokenizer: Any, question: Question) -> bool:
        text = self.text(tokenizer, question)
        return all(turn["content"].strip() in text for turn in question.fields.get("messages", ()))
