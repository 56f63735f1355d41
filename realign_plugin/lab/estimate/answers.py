"""How many answers on-policy data take, and how many tokens at most: from the command that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from realign_plugin.data.on_policy_options import MAX_TOKENS, SKILL_MAX_TOKENS
from realign_plugin.data.prompts import read_prompts, skill_prompts
from realign_plugin.lab.study.planning.commands import OnPolicy


@dataclass
class Answers:
    """Answers of the study's own models.

    Attributes:
        count: How many.
        tokens: Their tokens, at most.
    """

    count: int = 0
    tokens: int = 0


def answers(command: OnPolicy, cwd: Path) -> Answers | None:
    """What ``realign data on-policy`` asks both models; None where the prompts are not in local files.

    Raises:
        UserError: If a file holds no prompts.
    """
    kinds, options = ("prompts", "benign", "skill"), command.options
    files = {kind: [str(cwd / one) for one in command.sources.get(kind, [])] for kind in kinds}
    if not all(Path(file).is_file() for some in files.values() for file in some):
        return None
    seed, limit, skill_limit = options.get("seed", 0), options.get("limit"), options.get("skill_limit")
    safety = sum(len(read_prompts(files[kind], f"--{kind}", limit, seed).prompts) for kind in ("prompts", "benign"))
    asked = skill_prompts(files["skill"], skill_limit, seed)
    skill = 0 if asked.answered else len(asked.prompts)
    tokens = 2 * safety * options.get("max_tokens", MAX_TOKENS)
    return Answers(2 * safety + skill, tokens + skill * options.get("skill_max_tokens", SKILL_MAX_TOKENS))
