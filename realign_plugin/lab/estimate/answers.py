"""How many answers on-policy data take, and how many tokens at most: from the command that makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from realign_plugin.data.on_policy_options import MAX_TOKENS, SKILL_MAX_TOKENS
from realign_plugin.data.prompts import read_prompts, skill_prompts
from realign_plugin.data.rows.sources import TASKS, resolve
from realign_plugin.errors import UserError
from realign_plugin.lab.study.planning.commands import OnPolicy


@dataclass
class Answers:
    """Answers of the study's own models.

    Attributes:
        count: How many.
        tokens: Their tokens, at most.
        left_out: Sources whose prompts are not counted, since they are in no local file.
    """

    count: int = 0
    tokens: int = 0
    left_out: list[str] = field(default_factory=list)


def answers(command: OnPolicy, cwd: Path) -> Answers:
    """What ``realign data on-policy`` asks both models.

    Raises:
        UserError: If a file holds no prompts.
    """
    options, files, left_out = command.options, dict[str, list[str]](), []
    for kind in ("prompts", "benign", "skill"):
        places = {one: _local(one, cwd) for one in command.sources.get(kind, [])}
        files[kind] = [str(place) for place in places.values() if place is not None]
        left_out += [one for one, place in places.items() if place is None and not (kind == "skill" and one in TASKS)]
    seed, limit, skill_limit = options.get("seed", 0), options.get("limit"), options.get("skill_limit")
    safety = sum(len(read_prompts(files[kind], f"--{kind}", limit, seed).prompts) for kind in ("prompts", "benign"))
    asked = skill_prompts(files["skill"], skill_limit, seed)
    skill = 0 if asked.answered else len(asked.prompts)
    tokens = 2 * safety * options.get("max_tokens", MAX_TOKENS)
    tokens += skill * options.get("skill_max_tokens", SKILL_MAX_TOKENS)
    return Answers(2 * safety + skill, tokens, left_out)


def _local(source: str, cwd: Path) -> Path | None:
    """The file of a source; None where it is on the hub, or not there yet."""
    try:
        found = resolve(source, TASKS)
    except UserError:
        found = Path(source)
    return cwd / found if isinstance(found, Path) and (cwd / found).is_file() else None
