"""How many answers on-policy data take, and how many tokens at most: from the command that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from realign_plugin.data.on_policy import MAX_TOKENS, SKILL_MAX_TOKENS
from realign_plugin.data.prompts import read_prompts, skill_prompts


@dataclass
class Answers:
    """Answers of the study's own models.

    Attributes:
        count: How many.
        tokens: Their tokens, at most.
    """

    count: int = 0
    tokens: int = 0


def answers(command: Sequence[str], cwd: Path) -> Answers | None:
    """What ``realign data on-policy`` asks both models; None where prompts are in no file that is there.

    Args:
        command: Its command line.
        cwd: Folder that its paths count from.

    Raises:
        UserError: If a file holds no prompts.
    """
    flags: dict[str, list[str]] = {}
    for word, value in pairwise(command):
        if word.startswith("--"):
            flags.setdefault(word.removeprefix("--"), []).append(value)
    files = {name: [str(cwd / one) for one in flags.get(name, [])] for name in ("prompts", "benign", "skill")}
    if not all(Path(file).is_file() for some in files.values() for file in some):
        return None
    seed = _number(flags, "seed", 0)
    limit, skill_limit = (_number(flags, name, 0) or None for name in ("limit", "skill-limit"))
    safety = sum(len(read_prompts(files[name], f"--{name}", limit, seed)) for name in ("prompts", "benign"))
    skill = len(skill_prompts(files["skill"], skill_limit, seed)[0])
    tokens = 2 * safety * _number(flags, "max-tokens", MAX_TOKENS)
    return Answers(2 * safety + skill, tokens + skill * _number(flags, "skill-max-tokens", SKILL_MAX_TOKENS))


def _number(flags: dict[str, list[str]], name: str, default: int) -> int:
    return int(flags[name][-1]) if name in flags else default
