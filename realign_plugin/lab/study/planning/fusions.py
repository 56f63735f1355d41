"""The part of a plan where several fine-tuned models become one: each fusion plain, then realigned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.study.config.catalogue import FUSIONS, MASKED
from realign_plugin.lab.study.config.models import Fusion
from realign_plugin.lab.study.config.sections import Arguments, Names
from realign_plugin.lab.study.planning import merges
from realign_plugin.lab.study.planning.commands import Fuse
from realign_plugin.lab.study.planning.masking import Trained, exports, realignment
from realign_plugin.lab.study.planning.trainings import train
from realign_plugin.subspace.options import FUSION_OPTIONS
from realign_plugin.training.settings.meaning import check_meaning
from realign_plugin.training.settings.preflight import STAGE, TYPE, check_options

if TYPE_CHECKING:
    from realign_plugin.lab.study.planning.builder import Builder

OPTIONS: Final = ("task_weight", *(name for name in FUSION_OPTIONS if name != "fusion_method"))
GROUP: Final = "fused"


def fusions(builder: Builder, section: Fusion) -> None:
    """All fusions of a study.

    Raises:
        UserError: If a task, fusion or method is unknown, or there are fewer than two tasks.
    """
    names = section.tasks if section.tasks is not None else list(builder.config.tasks)
    for name in names:
        check_choice("fusion.tasks", name, builder.config.tasks)
    if len(names) < 2:
        raise UserError(f"fusion.tasks: {', '.join(names)}, expected two tasks or more; leave fusion out")
    builder.plan.groups[GROUP] = section.label
    tuned = [builder.tuned[name][0] for name in names]
    needs = (*(builder.tuned[name][1] for name in names), builder.aligned_step, *builder.before)
    for method, how in section.methods.items():
        check_choice(f"fusion.methods.{method}.kind" if how.kind else "fusion.methods", how.kind or method, FUSIONS)
        _check_options(f"fusion.methods.{method}.options", how.kind or method, how.options, tuned)
        _plain(builder, section, method, tuned, needs)
        for by in section.realign:
            check_choice("fusion.realign", by, builder.methods)
            kind = builder.methods[by].kind[0]
            if kind not in MASKED:
                raise UserError(f"fusion.realign: {by} is {kind}, expected a method of {' or '.join(MASKED)}")
            _realigned(builder, section, method, by, names, needs)


def _check_options(what: str, kind: str, options: Arguments, tuned: list[str]) -> None:
    """Refuse options that are unknown, another fusion's, not numbers, out of range, or not one for each task."""
    for option, value in options.items():
        check_choice(what, option, OPTIONS)
        numbers = value if isinstance(value, list) and option == "task_weight" else [value]
        if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
            raise UserError(f"{what}.{option}: {value!r}, expected a number (task_weight: or one for each task)")
        if numbers is value and len(numbers) != len(tuned):
            raise UserError(f"{what}.{option}: {len(numbers)} numbers for {len(tuned)} tasks, expected one for each")
    given = {"stage": STAGE, "finetuning_type": TYPE, "task_adapters": tuned, "fusion_method": kind} | options
    try:
        check_options(given)
        check_meaning(given)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def _plain(builder: Builder, section: Fusion, method: str, tuned: list[str], needs: Sequence[str]) -> None:
    """The fusion that realignment starts from: of the adapters' factors, or of whole weights by mergekit."""
    how, name = section.methods[method], f"{GROUP}-{method}"
    kind = how.kind or method
    out, title = builder.path("models", name), f"{name}: {len(tuned)} fine-tuned models in one"
    if builder.full:
        aligned = builder.local(builder.aligned_path or builder.config.model)
        document = merges.fused(kind, how.options, [builder.local(path) for path in tuned], aligned)
        inputs = builder.given(*tuned, builder.aligned_path or builder.config.model)
        step = builder.merge_step(name, "fuse", title, {out: document}, needs, inputs)
    else:
        does = Fuse(out, tuple(tuned), kind, builder.aligned_path, how.options)
        step = builder.command(name, "fuse", title, does, needs, builder.given(*tuned, builder.aligned_path))
    label = f"fused ({how.label or FUSIONS[kind]})"
    place = builder.place(out)
    builder.model(name, label, GROUP, "fused", step, place, tasks=section.evaluate, method=method, fusion=method)


def _realigned(builder: Builder, section: Fusion, method: str, by: str, tasks: Names, needs: Sequence[str]) -> None:
    """Masks on several fine-tuned models at once."""
    tuned = [builder.tuned[name][0] for name in tasks]
    how, fusion = builder.methods[by], section.methods[method]
    kind = fusion.kind or method
    label = fusion.label or FUSIONS[kind]
    if len(section.realign) > 1:
        label = f"{label}, {how.label}".rstrip(", ")
    changes = [how.train, fusion.options, fusion.train]
    what = realignment(builder, how.kind[0], tasks, tuned, section.pairs or builder.config.realign.pairs, changes)
    what = replace(
        what,
        recipe="mask_dpo_fused" if what.recipe == "mask_dpo" else what.recipe,
        title=f"{what.title} on {len(tuned)} fused models",
        arguments=what.arguments | {"fusion_method": kind},
    )
    for seed in how.seeds if how.seeds is not None else builder.config.seeds:
        name = train(builder, what.run(f"{GROUP}-{method}-{by}", seed, changes, needs))
        exports(builder, Trained(name, GROUP, by, seed, tuned, "fused + realigned", label, method))
