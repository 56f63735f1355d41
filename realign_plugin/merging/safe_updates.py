"""Where the updates of ``safe_lora`` and ``safe_merge`` come from: LoRA adapters, or models with a role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from mergekit.merge_methods.base import MergeMethodSpec, ParameterScope, ParameterSpec, TensorGroup
from torch import Tensor

from realign_plugin.errors import UserError
from realign_plugin.merging.alignment import Update, cosine, difference, project
from realign_plugin.merging.reporting import ModuleReport, add
from realign_plugin.merging.rounding import require_finite, unchanged, updated
from realign_plugin.merging.sources import lora, module_of
from realign_plugin.subspace.lora_adapters import LoraAdapter

ROLES: Final = ("unaligned", "fine_tuned", "safe")
ADAPTERS: Final = ("aligned_adapter", "task_adapter", "safe_adapter")


@dataclass(frozen=True)
class Updates:
    """What is known about one module.

    Attributes:
        module: Full name.
        aligned: The aligned model's weight, fp32, less the base's; None where the base is the aligned model.
        alignment: V = W_aligned - W_unaligned; None where this module has none.
        tuned: The fine-tuned model's update, from the aligned model.
        safe: The safe model's update, from the aligned model; None where the aligned model is the safe one.
    """

    module: str
    aligned: Update | None
    alignment: Update | None
    tuned: Update
    safe: Update | None


def lora_update(adapter: LoraAdapter, module: str, device: torch.device) -> Update | None:
    """What a LoRA adapter adds to a module's weight, on a device; None where it does not touch it."""
    pair = adapter.factors.get(module)
    if pair is None:
        return None
    rank = pair["A"].shape[0]
    scale = adapter.alphas[module] / (rank**0.5 if adapter.config.use_rslora else rank)
    return Update(pair["B"].to(device).float() * scale, pair["A"].to(device).float())


def find_updates(group: TensorGroup, parameters: Mapping[str, Any]) -> Updates | None:
    """The updates of the module that a tensor belongs to; None where the fine-tuning did not touch it.

    Args:
        group: The tensor in the base model and in the models that are listed.
        parameters: The method's parameters.

    Raises:
        UserError: If fine-tuning changed experts that are one tensor.
    """
    base: Tensor = group.base.tensor
    roles: dict[str, Tensor] = {}
    for entry in group.non_base:
        role = parameters["role"][entry.id]
        if role is not None:
            roles[role] = entry.tensor
    adapters = {name: lora(parameters[name], name) for name in ADAPTERS if parameters.get(name)}
    task = adapters.get("task_adapter")
    if task is not None:
        module = module_of(group.metadata.name, tuple(task.factors))
        tuned = lora_update(task, module, base.device) if module is not None else None
    else:
        name = group.metadata.name or ""
        module = name.removesuffix(".weight") if name.endswith(".weight") and base.dim() == 2 else None
        tuned = Update(roles["fine_tuned"].float() - base.float()) if "fine_tuned" in roles and module else None
        _check_experts(group, roles.get("fine_tuned"))
    if module is None or tuned is None:
        return None
    aligned = lora_update(adapters["aligned_adapter"], module, base.device) if "aligned_adapter" in adapters else None
    if aligned is not None:
        tuned = difference(tuned, aligned)
    alignment = aligned
    if "unaligned" in roles:
        alignment = Update(base.float() - roles["unaligned"].float())
    safe = lora_update(adapters["safe_adapter"], module, base.device) if "safe_adapter" in adapters else None
    if "safe" in roles:
        safe = Update(roles["safe"].float() - base.float())
    if safe is not None and aligned is not None:
        safe = difference(safe, aligned)
    return Updates(module, aligned, alignment, tuned, safe)


def _check_experts(group: TensorGroup, tuned: Tensor | None) -> None:
    """Refuse matrices of experts in one tensor that fine-tuning changed: they would stay so, unlike all others.

    Which of their sides is the output, and how many matrices are side by side in one, differs between architectures.
    """
    base: Tensor = group.base.tensor
    if tuned is None or base.dim() != 3 or 1 in base.shape:  # a depthwise convolution holds no matrices
        return
    if any(not torch.equal(one.float(), two.float()) for one, two in zip(base, tuned, strict=True)):
        raise UserError(
            f"models: {group.metadata.name} holds the matrices of all experts, which fine-tuning changed and which "
            "safe_lora and safe_merge cannot project, expected frozen experts; fine-tune the other modules with LoRA "
            "and give task_adapter, or use a method of mergekit's (linear, task_arithmetic)"
        )


def as_fine_tuned(group: TensorGroup, parameters: Mapping[str, Any]) -> Tensor:
    """A tensor that is not a module's matrix, as fine-tuning left it: the base's, where fine-tuning was LoRA."""
    tuned = [entry.tensor for entry in group.non_base if parameters["role"][entry.id] == "fine_tuned"]
    return unchanged(group, tuned[0] if tuned else group.base.tensor)


def merge_deviating(
    group: TensorGroup, parameters: Mapping[str, Any], correct: Callable[[Updates, Update], Tensor]
) -> Tensor:
    """One merged tensor: an update that deviates from the alignment subspace is corrected, another is kept.

    An update deviates where its cosine with its projection on the subspace is under ``threshold``. What is not a
    module's matrix stays as it was fine-tuned.

    Args:
        group: The tensor in the base model and in the models that are listed.
        parameters: The method's parameters.
        correct: Gives the update, from the aligned model, that replaces one that deviates, from the module's updates
            and the projection; fp32 ``[out, in]``.

    Raises:
        UserError: If the merged tensor is not finite.
    """
    found = find_updates(group, parameters)
    if found is None:
        return as_fine_tuned(group, parameters)
    threshold: float = parameters["threshold"]
    update = None
    if found.alignment is None or found.alignment.norm() == 0:
        add(ModuleReport(found.module, None, threshold, False, "no alignment vector"))
    else:
        projection = project(found.alignment, found.tuned)
        angle = cosine(found.tuned, projection)
        add(ModuleReport(found.module, angle, threshold, angle < threshold))
        if angle < threshold:
            update = correct(found, projection)
    if update is None:
        update = found.tuned.dense()
    whole = update if found.aligned is None else update + found.aligned.dense()
    return require_finite(group, updated(group.base.tensor, whole))


def shared_parameters(threshold: float, *extra: ParameterSpec) -> tuple[ParameterSpec, ...]:
    """The parameters that both methods have."""
    optional: Any = str | None
    return (
        ParameterSpec("aligned_adapter", optional, ParameterScope.SHARED, default=None),
        ParameterSpec("task_adapter", optional, ParameterScope.SHARED, default=None),
        ParameterSpec("threshold", float, ParameterScope.SHARED, default=threshold),
        ParameterSpec("role", optional, ParameterScope.NON_BASE, default=None),
        *extra,
    )


def check_sources(spec: MergeMethodSpec, given: Mapping[str, Any], roles: list[str]) -> None:
    """Refuse a configuration that gives no alignment vector or no update.

    Args:
        spec: The method.
        given: Its string parameters.
        roles: Roles of the models that are listed.

    Raises:
        UserError: With what is missing and why the method needs it.
    """
    if not given.get("aligned_adapter") and "unaligned" not in roles:
        raise UserError(
            f"{spec.name}: neither aligned_adapter nor a model with role: unaligned is given, expected one: the "
            "method compares updates with what alignment changed; give the aligned model's LoRA adapter, or list the "
            "model before alignment under models"
        )
    if not given.get("task_adapter") and "fine_tuned" not in roles:
        raise UserError(
            f"{spec.name}: neither task_adapter nor a model with role: fine_tuned is given, expected one; give the "
            "fine-tuned model's LoRA adapter, or list the fine-tuned model under models"
        )
    for one, two, why in (
        ("task_adapter", "fine_tuned", ""),
        ("aligned_adapter", "unaligned", ": with aligned_adapter the base model is the unaligned one"),
        ("safe_adapter", "safe", ""),
    ):
        if given.get(one) and two in roles:
            raise UserError(
                f"{spec.name}: {one} and a model with role: {two} are both given, expected one{why}; leave one out"
            )
    for role in roles:
        if roles.count(role) > 1:
            raise UserError(
                f"models: {roles.count(role)} have role: {role}, expected one of each; leave the others out"
            )


def check_modules(adapters: Mapping[str, LoraAdapter]) -> None:
    """Refuse adapters over an unaligned base that lack modules of the aligned one: alignment would be undone there.

    Args:
        adapters: The adapters that are given, by their parameters.

    Raises:
        UserError: With the module.
    """
    aligned = adapters.get("aligned_adapter")
    for name, adapter in adapters.items():
        lost = [module for module in aligned.factors if module not in adapter.factors] if aligned else []
        if lost:
            raise UserError(
                f"{name}: {lost[0]} is missing in {adapter.path}, aligned_adapter has it, expected an adapter that "
                "was trained from the aligned one; give that, or merge the aligned adapter into the base first and "
                "list the model before alignment with role: unaligned"
            )
