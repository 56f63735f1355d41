"""The judges that the settings ask for: one or two, each a guard or our own tags, at a server or in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.evaluation.judging.guards import GUARDS, Guard, guard_of

TAGS: Final = "openai_tags"
"""The judge that is asked in our own words and answers with our tags: any chat model."""
JUDGES: Final = ("off", "openai", TAGS, *GUARDS, "local")
"""What ``judge`` takes: ``openai`` and ``local`` tell the guard from the model's name, and take our tags otherwise."""
DEFAULT_MODEL: Final = "gpt-3.5-turbo"


@dataclass(frozen=True)
class Chosen:
    """One judge.

    Attributes:
        name: A key of ``GUARDS``, or ``openai_tags``.
        model: Its name at the server, or its path or id.
        local: Whether the model runs in this process.
        address: Its server's address; None takes the environment's.
    """

    name: str
    model: str
    local: bool = False
    address: str | None = None

    @property
    def guard(self) -> Guard | None:
        """The guard; None for our tags."""
        return GUARDS.get(self.name)


def check_names(judge: object) -> tuple[str, ...]:
    """The judges asked for, by name.

    Args:
        judge: What the user gave: a name, names with commas between them, or a list of names.

    Raises:
        UserError: If a name is unknown, or there are more than two, or one of two is ``off``.
    """
    names = judge.split(",") if isinstance(judge, str) else judge
    if not isinstance(names, (list, tuple)) or not 1 <= len(names) <= 2:
        raise UserError(f"judge: {str(judge)[:80]!r} is wrong, expected one judge or a list of two; correct it")
    found = []
    for name in names:
        stripped = (name if isinstance(name, str) else str(name)).strip()[:80]
        check_choice("judge", stripped, JUDGES)
        found.append(stripped)
    if len(found) == 2 and "off" in found:
        raise UserError(f"judge: {found} has 'off' next to a judge, expected two judges; leave one of them out")
    return tuple(found)


def choose(
    names: Sequence[str], models: Sequence[str], addresses: Sequence[str], guard: str | None, mode: str
) -> tuple[Chosen, ...]:
    """The judges, with their models and servers.

    Args:
        names: See ``check_names``.
        models: None, one for all, or one for each.
        addresses: None, one for all, or one for each.
        guard: The format of local judges whose model's name does not tell it.
        mode: ``judge_mode``.

    Raises:
        UserError: If the lists do not fit, a model is missing, two judges are the same, or one cannot tell what
            ``mode`` asks for, or the model is one whose form is not known.
    """
    if names[0] == "off":
        return ()
    for option, values in (("judge_model", models), ("judge_url", addresses)):
        if len(values) > 1 and len(values) != len(names):
            raise UserError(
                f"{option}: {list(values)} has {len(values)} values, expected one for each of {len(names)} judges"
            )
    if guard is not None:
        check_choice("judge_guard", guard, (TAGS, *GUARDS))
    found = []
    for index, name in enumerate(names):
        model = models[index if len(models) > 1 else 0] if models else DEFAULT_MODEL
        address = (addresses[index if len(addresses) > 1 else 0] or None) if addresses else None
        local = name == "local"
        if name in ("local", "openai"):
            plain = guard_of(model)
            known = (guard if local else None) or (plain.name if plain is not None else TAGS)
        else:
            known = name
        if not models and (local or known not in (TAGS, "strongreject")):
            what = "a folder or an id" if local else "the name of its model at the server"
            raise UserError(f"judge: {name!r} needs judge_model, which is not set, expected {what}; set it")
        other = next((one for one in GUARDS.values() if one.excludes(model)), None)
        if other is not None and TAGS not in (name, guard):
            raise UserError(
                f"judge_model: {model!r} has another form than {other.name!r}, expected a model that docs/evaluate.md "
                "lists for it; use one of those"
            )
        found.append(Chosen(known, model, local, None if local else address))
    if len(found) == 2 and found[0].name == found[1].name:
        raise UserError(
            f"judge: {list(names)} is {found[0].name!r} twice, expected two different judges; name another one"
        )
    for chosen in found:
        _check_mode(chosen, mode)
    return tuple(found)


def _check_mode(chosen: Chosen, mode: str) -> None:
    if mode == "harmful" or (chosen.guard is None and not (chosen.local and mode == "moderation")):
        return
    if chosen.guard is None or mode not in chosen.guard.feeds:
        raise UserError(
            f"judge_mode: {mode!r} is not what {chosen.name!r} tells, expected 'harmful'; leave judge_mode out"
        )
