"""Which of our options mean something in which run; no host is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.subspace.options import FUSION_OPTIONS
from realign_plugin.subspace.options import OPTIONS as SUBSPACE_OPTIONS
from realign_plugin.training.settings.distillation import DISTILL_OPTIONS
from realign_plugin.training.settings.inference import CHOICE
from realign_plugin.training.settings.preflight import DISTILL, LORA, OPTIONS, STAGE, STAGES, TYPE

MASKS: Final = ("mask_reference", "mask_compile", *(name for name in SUBSPACE_OPTIONS if name not in FUSION_OPTIONS))
UNUSED: Final[Mapping[tuple[str, str], tuple[tuple[str, ...], str]]] = {
    (STAGE, TYPE): (DISTILL_OPTIONS, "there are no teachers"),
    (DISTILL, TYPE): (("mask_reference",), "there is no reference but the two teachers"),
    (DISTILL, LORA): (MASKS, "there is no mask"),
}
"""By stage and type: our options that mean nothing, and why."""
FUSIONS: Final = {"ties_density": "ties", "dare_drop_rate": "dare", "fusion_seed": "dare"}
"""Options of one fusion alone."""


def check_meaning(given: Mapping[str, Any], *, trains: bool = True) -> None:
    """Refuse one of our options that would be ignored.

    Args:
        given: The options that a run was given, by name: ours, and the host's ``do_train``, ``pref_loss`` and
            ``adapter_name_or_path``. None, and what is empty, stands for an option that is not given.
        trains: Whether it is a command that can train; the others are export, chat and API.

    Raises:
        UserError: With the first of them, and why it means nothing.
    """
    stage, kind = given.get("stage") or "sft", given.get("finetuning_type") or LORA
    if not trains or stage not in STAGES:
        # What trainings draw and fuse, and what they learn from; a trained subspace has its own.
        rest = (name for name in OPTIONS if name not in ("stage", "finetuning_type", "lora_target", *CHOICE))
        _refuse(given, rest, "only stage: mask_dpo and stage: safety_distill use it")
        if given.get("do_train") or not given.get("adapter_name_or_path"):
            _refuse(given, CHOICE, "a mask is chosen where an adapter_name_or_path is evaluated, exported or asked")
        return
    unused, why = UNUSED.get((stage, kind), ((), ""))
    _refuse(given, unused, f"with stage: {stage} and finetuning_type: {kind} {why}")
    if stage == STAGE and given.get("pref_loss") in ("orpo", "simpo"):
        _refuse(given, ["mask_reference"], f"pref_loss: {given['pref_loss']} has no reference")
    if not given.get("adapter_name_or_path"):  # which was built with its own
        fusion = given.get("fusion_method") or "task_arithmetic"
        for name, needed in FUSIONS.items():
            if needed != fusion:
                _refuse(given, [name], f"fusion_method is {fusion}, not {needed}")


def _refuse(given: Mapping[str, Any], names: Iterable[str], why: str) -> None:
    for name in names:
        if (value := given.get(name)) not in (None, "", []):
            raise UserError(f"{name}: {value!r}, expected none, since {why}; leave it out")
