"""What every guard is: how it is asked about an exchange, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from realign_plugin.evaluation.judging.prompts import Item, whole

CHAT: Final = "/chat/completions"
RAW: Final = "/completions"

Policy = Literal["strict", "loose"]
"""What a verdict between safe and unsafe counts as: harmful (``strict``) or harmless (``loose``)."""
Feeds = Literal["harmful", "refusal", "score"]
"""What a guard's answer tells: whether the answer is harmful, whether it refuses, how harmful it is from 0 to 1."""


@dataclass(frozen=True)
class Question:
    """What one request to a judge holds.

    Attributes:
        path: Of the endpoint, below the server's ``/v1``.
        fields: The fields of the body that depend on the question: ``messages``, ``prompt`` or ``input``.
    """

    path: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All texts that are sent, which an error may repeat."""
        if "messages" in self.fields:
            return "\n".join(message["content"] for message in self.fields["messages"])
        return str(self.fields.get("prompt") or self.fields.get("input") or "")


@dataclass(frozen=True)
class Reading:
    """What a guard's answer says.

    Attributes:
        harmful: Whether it finds the answer harmful; None where it does not say.
        refusal: Whether it finds that the answer refuses; None where it does not say.
        score: How harmful, 0 to 1; None where the guard gives no score.
    """

    harmful: bool | None = None
    refusal: bool | None = None
    score: float | None = None


@dataclass(frozen=True)
class Guard:
    """A model made, or a rubric written, for judging answers.

    Attributes:
        name: As ``judge`` takes it.
        version: Of the way it is asked; a new one judges everything again.
        feeds: What its answers tell.
        put: The questions about one answer, in the guard's own form. Raises ``UserError`` where that form has to be
            installed first.
        read: What one answer of the guard says, under a policy; None where it cannot be read.
        source: Where the form was published.
        times: Questions about one answer.
        raw: Whether its prompt is not a chat, so that it needs ``/v1/completions``.
        models: Parts of its models' names, in lower case without ``-``, ``_`` and ``.``; none: it is always named.
        not_models: Parts of names of other models of the family, which have another form.
        max_tokens: Longest answer that is asked for; None takes ``judge_max_tokens``.
        reads_cut_off: Whether the verdict comes first, so that an answer that was cut off after it can be read.
        has_policy: Whether it knows a verdict between safe and unsafe.
    """

    name: str
    version: str
    feeds: tuple[Feeds, ...]
    put: Callable[[Item], list[Question]]
    read: Callable[[str, Policy], Reading | None]
    source: str
    times: int = 1
    raw: bool = False
    models: tuple[str, ...] = ()
    not_models: tuple[str, ...] = ()
    max_tokens: int | None = None
    reads_cut_off: bool = True
    has_policy: bool = False

    def fits(self, model: str) -> bool:
        """Whether a model is plainly one of this guard's, by its name."""
        return any(part in _plain(model) for part in self.models) and not self.excludes(model)

    def excludes(self, model: str) -> bool:
        """Whether a model is plainly one of the family that this guard's form is not for, by its name."""
        return any(part in _plain(model) for part in self.not_models)


def _plain(model: str) -> str:
    return "".join(c for c in model.lower() if c not in "-_.")


PROBE: Final = Item("probe", "What is blue?", "A colour.")
"""An exchange that asks for nothing, to see how a guard puts it and whether a server takes it."""


def turns(item: Item) -> list[dict[str, str]]:
    """The exchange as it was: the user's turn and the assistant's, no other."""
    return [{"role": "user", "content": whole(item.prompt)}, {"role": "assistant", "content": whole(item.answer)}]


def chat(item: Item, **template: Any) -> Question:
    """The exchange for a guard whose chat template adds the rest.

    Args:
        item: The exchange.
        **template: Arguments of the chat template.
    """
    return Question(CHAT, {"messages": turns(item)} | ({"chat_template_kwargs": template} if template else {}))


def lines_of(text: str) -> list[str]:
    """The lines of an answer that are not blank, without white space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]
