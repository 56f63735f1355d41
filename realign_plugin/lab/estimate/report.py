"""An estimate on the terminal, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.lab.estimate.disk import checkpoint_bytes, export_bytes, final_bytes, folder_bytes, model_bytes
from realign_plugin.lab.estimate.memory import CARDS, WAYS, Memory, alone, per_process
from realign_plugin.lab.estimate.parameters import by_module, lora_baseline
from realign_plugin.lab.estimate.study import StudyCost
from realign_plugin.lab.estimate.training import Training
from realign_plugin.terminal import new_console

MIB: Final = 2**20
ASKED: Final = {"ddp": "DDP", "fsdp": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
Values = dict[str, Any]


def size(count: float) -> str:
    """Bytes for people: GiB, or MiB where there is less than one."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / MIB:,.1f} MiB"


def training_values(training: Training, processes: int) -> Values:
    """All numbers of one training, ready for JSON; bytes unless stated otherwise."""
    model, baseline = training.model, lora_baseline(training)
    ways = {way: _memory(per_process(training, way, processes)) for way in WAYS}
    exports = {name: export_bytes(training, dtype) for name, dtype in _exports()}
    return {
        "name": training.name,
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": model.parameters,
        },
        "parameters": {
            "elements": training.elements,
            "logits": training.logits,
            "granularity": training.spec.mask_granularity if training.kind == "mask" else None,
            "modules": by_module(training),
        },
        "batch": {"rows": training.rows, "tokens": training.length, "checkpointing": training.checkpointing},
        "memory": _memory(alone(training)),
        "lora_dpo": _memory(alone(baseline)) if baseline is not None else None,
        "processes": processes,
        "asked": ASKED.get(training.ways),
        "ways": ways,
        "disk": {
            "checkpoint": checkpoint_bytes(training),
            "checkpoints": training.saves,
            "result": final_bytes(training),
            "folder": folder_bytes(training),
            "lora_export": exports,
            "merged_model": model_bytes(training),
        },
        "assumed": list(training.assumed),
    }


def _exports() -> list[tuple[str, Any]]:
    import torch

    return [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def _memory(memory: Memory) -> Values:
    fits = {str(card): memory.fits(card) for card in CARDS}
    found: Values = {"total": memory.total, "moment": memory.moment, "parts": dict(memory.parts)}
    return found | {"peaks": dict(memory.totals), "fits_gb": fits}


def study_values(cost: StudyCost) -> Values:
    """All numbers of a study, ready for JSON; bytes unless stated otherwise."""
    trainings = []
    for name, training in cost.trainings.items():
        trainings.append(
            {"step": name, "stage": training.stage, "kind": training.kind, "memory": _memory(alone(training))}
            | {"checkpoint": checkpoint_bytes(training), "folder": folder_bytes(training)}
        )
    calls = cost.calls
    judge: Values = {"answers": calls.answers, "calls": calls.calls, "prompt_tokens": calls.prompt_tokens}
    judge |= {"completion_tokens": calls.completion_tokens, "judging": calls.judging, "model": calls.model}
    return {
        "root": cost.root,
        "targets": list(cost.targets),
        "trainings": trainings,
        "disk": dict(cost.disk) | {"all": sum(cost.disk.values())},
        "scratch": cost.scratch,
        "answers": {"count": cost.answers.count, "tokens": cost.answers.tokens},
        "evaluations": cost.evaluations,
        "judge": judge | {"price": calls.price, "counted_in_files": calls.local},
        "not_counted": cost.unknown,
        "assumed": sorted({text for training in cost.trainings.values() for text in training.assumed}),
    }


def print_training(values: Values, config: Path) -> None:
    """Print what one training costs."""
    from rich.table import Table

    console, model, batch = new_console(120), values["model"], values["batch"]
    console.print(
        f"{config}: {model['architecture']}, {model['parameters']:,} parameters in {model['dtype']}; "
        f"{batch['rows']} rows of {batch['tokens']} tokens at a time, gradient checkpointing "
        f"{'on' if batch['checkpointing'] else 'off'}"
    )
    numbers = values["parameters"]
    if numbers["modules"]:
        table = Table("target", "modules", "weight", "rank", "numbers", "logits", title="What is trained")
        for row in numbers["modules"]:
            rank = "" if row["rank"] is None else str(row["rank"])
            weight = " x ".join(map(str, row["weight"]))
            table.add_row(
                row["target"], str(row["modules"]), weight, rank, f"{row['elements']:,}", f"{row['logits']:,}"
            )
        table.add_row("all", "", "", "", f"{numbers['elements']:,}", f"{numbers['logits']:,}")
        console.print(table)
    _print_parts(console, values)
    _print_ways(console, values)
    disk = values["disk"]
    table = Table("on the disk", "size")
    kept = disk["checkpoints"]
    count = "their number depends on the data" if kept is None else f"{kept} kept"
    table.add_row(f"a checkpoint ({count})", size(disk["checkpoint"]))
    table.add_row("the result", size(disk["result"]))
    table.add_row("the whole folder" + (", at least" if kept is None else ""), size(disk["folder"]))
    for name, count in disk["lora_export"].items():
        if count is not None:
            table.add_row(f"LoRA adapter of `realign export`, {name}", size(count))
    table.add_row("merged model", size(disk["merged_model"]))
    console.print(table)
    _print_assumed(console, values["assumed"])


def _print_parts(console: Any, values: Values) -> None:
    from rich.table import Table

    ours, baseline = values["memory"], values["lora_dpo"]
    heads = ["part", "bytes"] if baseline is None else ["part", "this training", "LoRA-DPO"]
    table = Table(*heads, title="Peak memory in one process")
    names = list(dict.fromkeys([*ours["parts"], *(baseline["parts"] if baseline else ())]))
    sides = [side for side in (ours, baseline) if side is not None]
    for name in names:
        table.add_row(name, *(size(side["parts"][name]) if name in side["parts"] else "" for side in sides))
    table.add_row("all", *(size(side["total"]) for side in sides), end_section=True)
    for name in ours["peaks"]:
        table.add_row(f"peak of {name}", *(size(side["peaks"].get(name, 0)) for side in sides))
    console.print(table)
    console.print(f"The parts are those at the peak: {ours['moment']}.")


def _print_ways(console: Any, values: Values) -> None:
    from rich.table import Table

    count = values["processes"]
    table = Table("way", "a process holds", *(f"{card} GB" for card in CARDS), title="Does it fit a GPU?")
    for way, memory in values["ways"].items():
        name = way if way == WAYS[0] else f"{way}, {count} processes"
        name += " (asked for)" if way == values["asked"] else ""
        table.add_row(name, size(memory["total"]), *(_yes(memory["fits_gb"][str(card)]) for card in CARDS))
    console.print(table)


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def print_study(values: Values, config: Path) -> None:
    """Print what a study costs."""
    from rich.table import Table

    console = new_console(120)
    table = Table(
        "trainings", "number", "peak", *(f"{card} GB" for card in CARDS), "checkpoint",
        title=f"{config}: {', '.join(values['targets'])}",
    )  # fmt: skip
    for rows in _alike(values["trainings"]):
        first = rows[0]
        name = f"{first['stage']} ({first['kind']}): {first['step']}" + (" …" if len(rows) > 1 else "")
        memory = first["memory"]
        fits = (_yes(memory["fits_gb"][str(card)]) for card in CARDS)
        table.add_row(name, str(len(rows)), size(memory["total"]), *fits, size(first["checkpoint"]))
    console.print(table)
    table = Table("left on the disk by", "size")
    for kind, count in values["disk"].items():
        table.add_row(kind, size(count))
    table.add_row("meanwhile, while one merge runs", size(values["scratch"]))
    console.print(table)
    if values["answers"]["count"]:
        count, tokens = values["answers"]["count"], values["answers"]["tokens"]
        console.print(f"The study's own models give {count:,} answers, {tokens:,} tokens at most, for on-policy data.")
    _print_judge(console, values)
    if values["not_counted"]:
        console.print(f"Not counted: {', '.join(values['not_counted'])}; data sets, results and logs.")
    _print_assumed(console, values["assumed"])


def _alike(trainings: Sequence[Values]) -> list[list[Values]]:
    groups: dict[tuple[Any, ...], list[Values]] = {}
    for row in trainings:
        key = (row["stage"], row["kind"], row["memory"]["total"], row["checkpoint"])
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _print_judge(console: Any, values: Values) -> None:
    judge: Mapping[str, Any] = values["judge"]
    price = "" if judge["price"] is None else f", {judge['price']:,.2f} in the currency of the prices"
    asked = f"{judge['model']} is asked" if judge["judging"] else "No judge is asked; one would be asked"
    console.print(
        f"{values['evaluations']} evaluations, {judge['answers']:,} answers of ours to judge. {asked} "
        f"{judge['calls']:,} times at most: {judge['prompt_tokens']:,} tokens sent, {judge['completion_tokens']:,} "
        f"back{price}."
    )


def _print_assumed(console: Any, assumed: Sequence[str]) -> None:
    for text in assumed:
        console.print(f"Assumed: {text}.")
