"""What on-policy data are made from: prompts, the models that answer them, and how many answers of which length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realign_plugin.data.answering.local import ALIGNED, FINE_TUNED, Answerer, Answering
from realign_plugin.data.answering.server import Server, ServerAnswerer
from realign_plugin.data.rows.sources import TASKS, HubSource, resolve
from realign_plugin.errors import UserError
from realign_plugin.subspace.lora_adapters import read_lora

MAX_TOKENS: Final = 64
"""Maximum tokens of an answer to a safety prompt."""
SKILL_MAX_TOKENS: Final = 256
"""Maximum tokens of an answer to a prompt of the skill."""


@dataclass(frozen=True)
class Sources:
    """Where prompts come from.

    Attributes:
        prompts: Harmful ones: files, hub ids, or names of tasks.
        benign: Harmless ones, preferably ones that sound dangerous.
        skill: Prompts of the new skill, with answers or without.
        evaluation: Files of prompts that the models are to be measured with, none of which may be among the others.
        split_from: The sources that these hold parts of, for the cards.
    """

    prompts: Sequence[str]
    benign: Sequence[str] = ()
    skill: Sequence[str] = ()
    evaluation: Sequence[str] = ()
    split_from: Sources | None = None

    @property
    def origins(self) -> tuple[list[HubSource | Path], list[HubSource | Path]]:
        """Where the safety prompts come from, and where the skill does."""
        first = self.split_from or self
        safety = [resolve(one, TASKS) for one in (*first.prompts, *first.benign)]
        return safety, [resolve(one, TASKS) for one in first.skill]


@dataclass(frozen=True)
class Models:
    """The models that answer: loaded here, or at a server.

    Attributes:
        model: The base model, a chat model.
        adapter: The fine-tuned model's LoRA adapter; None where only the aligned model answers.
        aligned: The aligned model's LoRA adapter; None where the base model itself is aligned.
        server: Where both models are asked; the others are then only noted, and may be None.
    """

    model: str | None = None
    adapter: Path | None = None
    aligned: Path | None = None
    server: Server | None = None

    @property
    def both(self) -> bool:
        """Whether the fine-tuned model answers too."""
        return self.adapter is not None or self.server is not None

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that answer the safety prompts."""
        return (ALIGNED, FINE_TUNED) if self.both else (ALIGNED,)

    def check(self) -> None:
        """Check the adapters, and what the server needs.

        Raises:
            UserError: If an adapter cannot be read, or a model is not given.
        """
        for option, folder in (("--adapter", self.adapter), ("--aligned", self.aligned)):
            if folder is not None:
                read_lora(folder, option, linear=False)
        if self.server is not None:
            self.server.check()
            return
        if self.model is None:
            raise UserError(
                "--model: not given, expected --model and --adapter, which are loaded here, or --aligned-name and "
                "--adapter-name, models at a server; give one pair"
            )

    def notes(self) -> dict[str, str | Path | None]:
        """What the journal and the cards record of the models."""
        given: dict[str, str | Path | None] = {"model": self.model, "adapter": self.adapter, "aligned": self.aligned}
        if self.server is None:
            return given if self.both else {role: one for role, one in given.items() if role != "adapter"}
        noted = {role: one for role, one in given.items() if one is not None}
        return {"aligned_name": self.server.aligned, "adapter_name": self.server.fine_tuned, **noted}

    def load(self, answerer: Callable[..., Answerer], max_tokens: int) -> Answering:
        """The models, ready to answer with so many tokens at most."""
        if self.server is not None:
            return ServerAnswerer(self.server, max_tokens)
        return answerer(self.model, dict(zip(self.roles, (self.aligned, self.adapter), strict=False)))


@dataclass(frozen=True)
class Amounts:
    """How many prompts are answered, and how long the answers may be.

    Attributes:
        limit: Keep at most this many harmful and this many benign prompts.
        skill_limit: Keep at most this many prompts of the skill.
        max_tokens: Maximum tokens of an answer to a safety prompt.
        skill_max_tokens: Maximum tokens of an answer to a prompt of the skill.
        batch_size: How many prompts are answered at a time, and saved; None takes 16, with a server 256.
    """

    limit: int | None = None
    skill_limit: int | None = None
    max_tokens: int = MAX_TOKENS
    skill_max_tokens: int = SKILL_MAX_TOKENS
    batch_size: int | None = None
