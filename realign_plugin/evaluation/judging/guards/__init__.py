"""Guard models and rubrics as judges, one file each: how an exchange is put, how the answer is read."""

from __future__ import annotations

from typing import Final

from realign_plugin.evaluation.judging.guards.granite_guardian import GRANITE_GUARDIAN
from realign_plugin.evaluation.judging.guards.guard import Guard, Policy, Question, Reading
from realign_plugin.evaluation.judging.guards.harmbench import HARMBENCH
from realign_plugin.evaluation.judging.guards.llama_guard import LLAMA_GUARD
from realign_plugin.evaluation.judging.guards.qwen3guard import QWEN3GUARD
from realign_plugin.evaluation.judging.guards.shieldgemma import SHIELDGEMMA
from realign_plugin.evaluation.judging.guards.strongreject import STRONGREJECT
from realign_plugin.evaluation.judging.guards.wildguard import WILDGUARD

__all__ = ["GUARDS", "Guard", "Policy", "Question", "Reading", "guard_of"]

GUARDS: Final = {
    guard.name: guard
    for guard in (LLAMA_GUARD, QWEN3GUARD, WILDGUARD, HARMBENCH, SHIELDGEMMA, GRANITE_GUARDIAN, STRONGREJECT)
}
"""All guards by the name that ``judge`` takes."""


def guard_of(model: str) -> Guard | None:
    """The guard that a model plainly is, by its name; None for any other model."""
    return next((guard for guard in GUARDS.values() if guard.fits(model)), None)
