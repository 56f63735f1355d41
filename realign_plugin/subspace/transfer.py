"""A trained mask on another task, without training (SOMF, section 4.4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from realign_plugin.errors import UserError
from realign_plugin.subspace.building import check_moved
from realign_plugin.subspace.lora_adapters import Factors, LoraAdapter, check_same_modules, read_lora
from realign_plugin.subspace.lora_config import LoraConfig
from realign_plugin.subspace.spec import replace_spec
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.subspace.task_vectors import difference, keep_vectors, task_weights


def transfer(
    subspace: SafetySubspace, task: str | Path, task_weight: float | None = None, what: str = "task_adapter"
) -> SafetySubspace:
    """A trained mask on the vector of another task (SOMF, section 4.4).

    Args:
        subspace: The trained subspace, in LoRA space.
        task: LoRA adapter of the other task, fine-tuned from the same aligned model.
        task_weight: Lambda of that task; None takes the default for one task.
        what: What the user calls the adapter.

    Returns:
        A subspace with the same logits and aligned factors, and the other task's vector.

    Raises:
        UserError: If the subspace is in weight space, or the adapter does not fit it.
    """
    spec = subspace.spec
    if spec.vector_space != "lora":
        raise UserError(
            f"{what}: the subspace works on whole weights, expected one in LoRA space; merge with the other model in "
            "mergekit's models instead (merge_method: safety_subspace)"
        )
    adapter = read_lora(task, what, linear=False)
    safe = LoraAdapter(Path("the subspace"), _lora_config(subspace), _shapes_of(subspace))
    check_same_modules(adapter, safe, what, "the subspace")
    if subspace.aligned:
        check_moved(adapter, replace(safe, factors={m: dict(p) for m, p in subspace.aligned.items()}), None, what)
    else:
        check_moved(adapter, None, None, what)
    moved = replace_spec(spec, task_weights=task_weights(task_weight, 1, spec.fusion_method))
    moved.sources = [s for s in spec.sources if s.get("role") != "task"]
    moved.sources += [{**s, "role": "mask"} for s in spec.sources if s.get("role") == "task"]
    moved.sources.append(adapter.provenance("task", moved.task_weights[0]))
    kept: list[Factors] = [{} for _ in range(moved.kept_deltas)]
    for module in subspace.logits:
        for factor in spec.factors:
            start = subspace.aligned[module][factor] if subspace.aligned else None
            vector = difference(adapter.factors[module][factor], start)
            for delta, factors in zip(keep_vectors(moved, f"{module}.{factor}", [vector]), kept, strict=True):
                factors.setdefault(module, {})[factor] = delta
    return SafetySubspace(moved, subspace.logits, subspace.aligned, kept, subspace.base_model)


def _lora_config(subspace: SafetySubspace) -> LoraConfig:
    spec = subspace.spec
    return LoraConfig(
        peft_type="LORA",
        base_model_name_or_path=subspace.base_model,
        use_rslora=spec.use_rslora,
        r=spec.r,
        lora_alpha=spec.lora_alpha,
        rank_pattern=spec.rank_pattern,
        alpha_pattern=spec.alpha_pattern,
        target_parameters=spec.target_parameters,
    )


def _shapes_of(subspace: SafetySubspace) -> Factors:
    return {m: {f: subspace.deltas[0][m][f] for f in subspace.spec.factors} for m in subspace.logits}
