"""One example as it is written: a prompt with its answer, or with a chosen and a rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from realign_plugin.data.rows.columns import DroppedError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked.

    Attributes:
        instruction: The request, or its first part.
        input: Its second part (alpaca's column); LLaMA-Factory joins the two with a line break.
        system: System prompt.
        history: Earlier turns, each a request and its answer.
        tools: JSON text of the tools that are offered.
        roles: LLaMA-Factory's roles of all turns up to the request, where one is a tool call or its result; empty
            where user and assistant take turns.
    """

    instruction: str
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    tools: str = ""
    roles: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The request as LLaMA-Factory joins it."""
        return "\n".join(part for part in (self.instruction, self.input) if part)

    @property
    def whole(self) -> str:
        """All that is asked: system prompt, earlier turns and the request. Two rows with the same are the same."""
        turns = (part for turn in self.history for part in turn)
        return "\n".join(part for part in (self.system, *turns, self.text) if part)

    @property
    def opening(self) -> str:
        """The first request of the conversation: the split depends on it, so that no opening is in both halves."""
        return self.history[0][0] if self.history else self.text


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    Attributes:
        prompt: What the model is asked.
        answer: Its answer; the chosen one of a pair.
        rejected: The rejected answer of a pair; None for fine-tuning data.
        rejected_drawn: Whether ``rejected`` was drawn from a list, and so is not part of the example's identity.
        role: LLaMA-Factory's role of the answer: ``gpt``, or ``function_call``.
        rejected_role: The same of the rejected answer.
    """

    prompt: Prompt
    answer: str
    rejected: str | None = None
    rejected_drawn: bool = False
    role: str = "gpt"
    rejected_role: str = "gpt"

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
        """What distinguishes it from other examples; duplicates and limits depend on it."""
        turns = [part for turn in self.prompt.history for part in turn]
        rejected = [] if self.rejected is None or self.rejected_drawn else [self.rejected]
        tools = [part for part in (self.prompt.tools, *self._roles) if part]
        return (self.prompt.system, str(len(turns)), *turns, self.prompt.text, self.answer, *rejected, *tools)

    def reversed_key(self) -> tuple[str, ...] | None:
        """The key of the pair that prefers the other answer; None where there is no such pair."""
        if self.rejected is None or self.rejected_drawn:
            return None
        return Example(self.prompt, self.rejected, self.answer, False, self.rejected_role, self.role).key

    @property
    def _roles(self) -> list[str]:
        """Of all turns, the answer and the rejected one; empty where no tool is called."""
        context = self.prompt.roles or ("human", "gpt") * len(self.prompt.history) + ("human",)
        roles = [*context, self.role, *([] if self.rejected is None else [self.rejected_role])]
        return roles if set(roles) - {"human", "gpt"} else []

    def row(self) -> dict[str, Any]:
        """The row in LLaMA-Factory's alpaca layout; ``system``, ``history`` and ``tools`` only where there are any.

        A row with a tool's turns has ``roles``, which alpaca's layout lacks: see ``as_conversation``.
        """
        row: dict[str, Any]
        if self.rejected is None:
            row = {"instruction": self.prompt.instruction, "input": self.prompt.input, "output": self.answer}
        else:
            row = {"prompt": self.prompt.text, "chosen": self.answer, "rejected": self.rejected}
        if self.prompt.system:
            row["system"] = self.prompt.system
        if self.prompt.history:
            row["history"] = [list(turn) for turn in self.prompt.history]
        if self.prompt.tools:
            row["tools"] = self.prompt.tools
        if self._roles:
            row["roles"] = self._roles
        return row


def as_conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in LLaMA-Factory's sharegpt layout, which knows tool calls and their results.

    Args:
        row: What ``Example.row`` gives.

    Returns:
        ``conversations``, to its end for fine-tuning; for a pair up to the request, with ``chosen``, ``rejected`` and,
        for fine-tuning on the chosen answer, ``messages``.
    """
    history = [part for turn in row.get("history", ()) for part in turn]
    request = row["prompt"] if "prompt" in row else "\n".join(filter(None, (row["instruction"], row["input"])))
    answers = [row["chosen"], row["rejected"]] if "chosen" in row else [row["output"]]
    texts = [*history, request, *answers]
    before = len(history) + 1
    usual = ["human", "gpt"] * before
    roles = row.get("roles") or [*usual[:before], *["gpt"] * len(answers)]
    said = [{"from": role, "value": text} for role, text in zip(roles, texts, strict=True)]
    extras = {name: row[name] for name in ("system", "tools") if name in row}
    if len(answers) == 1:
        return {"conversations": said} | extras
    pair = {"conversations": said[:before], "chosen": said[before], "rejected": said[before + 1]}
    return pair | {"messages": said[: before + 1]} | extras
