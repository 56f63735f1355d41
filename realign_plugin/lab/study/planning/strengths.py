"""The ablation of strengths: each as a row, of merges and of trained subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from realign_plugin.errors import UserError, check_range
from realign_plugin.lab.records import Role
from realign_plugin.lab.study.config.catalogue import MASKED, MERGES
from realign_plugin.lab.study.config.measuring import Pick
from realign_plugin.lab.study.config.models import Method
from realign_plugin.lab.study.planning import merges, realignment
from realign_plugin.lab.study.planning.ablation_parts import check_realigned, new_models, picked, table

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder

DIAL: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def strength(builder: Builder, section: Pick) -> None:
    """Every strength as a row: of merges, and of trained subspaces by mergekit's dial."""
    tasks, methods = picked(builder, section, "strength", [*MERGES, *MASKED])
    if section.methods is None:
        chosen = [name for name, how in builder.methods.items() if how.kind[0] in ("resta", "interpolation", *MASKED)]
        methods = chosen or methods
    values = section.values or list(DIAL)
    for value in values:
        check_range("ablations.strength.values", value, 0.0, 2.0)
    if len({f"{value:g}" for value in values}) < len(values):
        raise UserError(
            f"ablations.strength.values: {values}, expected numbers that differ in six digits; leave one out"
        )
    seed = builder.config.seeds[0]
    with new_models(builder) as models:
        for name, method in ((name, method) for name in tasks for method in methods):
            how = builder.methods[method]
            if how.kind[0] in MERGES:
                entry = MERGES[how.kind[0]]
                for value in values:
                    check_range(f"ablations.strength.values of {method}", value, entry.lowest, entry.highest)
            own = f"{name}-{method}-{seed}" if how.kind[0] in MASKED else f"{name}-{method}"
            documents = _at_strengths(builder, name, method, how, values)
            needs = [builder.tuned[name][1], builder.aligned_step, *builder.before]
            if how.kind[0] in MASKED:
                check_realigned(builder, name, method, "strength")
                needs.append(own)
            inputs = builder.given(builder.config.model, builder.tuned[name][0], builder.aligned_path)
            step = builder.merge_step(
                f"strength-{own}", "merge", f"{own}: {len(values)} strengths", documents, tuple(needs), inputs
            )
            role: Role = "realigned" if how.kind[0] in MASKED else "baseline"
            label = f"realigned ({how.label or how.masks[0]})" if role == "realigned" else how.label or method
            for value, out in zip(values, documents, strict=True):
                facts = {"tasks": builder.config.tasks[name].evaluate, "method": method}
                builder.model(f"{own}-at{value:g}", f"{label} at {value:g}", name, role, step, (out, None), **facts)
    text = "0 is the fine-tuned model for RESTA and interpolation, and the aligned model for a trained mask."
    table(builder, "strength", "Strength of the repair", text, tasks, models)


def _at_strengths(
    builder: Builder, name: str, method: str, how: Method, values: Sequence[float]
) -> dict[str, merges.Document]:
    if how.kind[0] not in MASKED:
        found = realignment.merge_documents(builder, method, how.model_copy(update={"strengths": list(values)}), name)
        outs = [builder.path("models", f"{name}-{method}-at{value:g}") for value in values]
        return dict(zip(outs, found.values(), strict=True))
    run = f"{name}-{method}-{builder.config.seeds[0]}"
    base = (
        builder.local(builder.aligned_path or builder.config.model)
        if builder.full
        else builder.local(builder.config.model)
    )
    listed = [builder.local(builder.tuned[name][0])] if builder.full else [base]
    return {
        builder.path("models", f"{run}-at{value:g}"): merges.dial(
            builder.path("models", run), listed, base, mask=how.masks[0], strength=value
        )
        for value in values
    }
