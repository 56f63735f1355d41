"""What a whole study costs: its trainings, what it leaves on the disk, what it answers, and what it asks a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.estimate.adapters import adapter_shapes, factor_shapes
from realign_plugin.lab.estimate.answers import Answers, answers
from realign_plugin.lab.estimate.disk import (
    config_bytes,
    folder_bytes,
    lora_tensors,
    safetensors_bytes,
    subspace_tensors,
)
from realign_plugin.lab.estimate.judge import Calls, judge_calls
from realign_plugin.lab.estimate.shapes import Factors, model_shapes
from realign_plugin.lab.estimate.training import Training, is_counted, read_training
from realign_plugin.lab.study.planning.commands import Command, Export, Fuse, Measure, Merge, OnPolicy, Train, Transfer
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Step


@dataclass
class StudyCost:
    """A study's cost.

    Attributes:
        root: Its folder.
        targets: What of it is counted.
        trainings: Trainings by step.
        disk: Bytes that stay, by kind of step.
        scratch: Bytes that are there while one merge runs, at most.
        calls: Of the judge, over all evaluations.
        answers: Of the study's own models, for on-policy data.
        evaluations: Runs of lm-eval that measure one model each.
        unknown: Steps whose size is unknown, such as the user's own commands.
    """

    root: str
    targets: tuple[str, ...]
    trainings: dict[str, Training] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    scratch: int = 0
    calls: Calls = field(default_factory=Calls)
    answers: Answers = field(default_factory=Answers)
    evaluations: int = 0
    unknown: list[str] = field(default_factory=list)


def study_cost(plan: Plan, targets: Sequence[str]) -> StudyCost:
    """Add up a study.

    Raises:
        UserError: If a target is unknown, or a model's configuration is not there.
    """
    for name in targets:
        check_choice("--target", name, plan.targets)
    planned = {
        step.training.folder: {key: value for key, value in command.arguments.items() if value is not None}
        for step in plan.steps.values()
        for command in step.does
        if step.training is not None and isinstance(command, Train)
    }
    _check_model(plan, planned)
    cost = StudyCost(plan.root, tuple(targets))
    by_folder: dict[str, Training] = {}
    for step in plan.wanted(targets):
        if step.training is not None:
            folder = step.training.folder
            if step.kind in ("prepare", "finish") and not is_counted(planned[folder]):
                cost.unknown.append(step.name)
                continue
            training = read_training(step.name, planned[folder], planned)
            cost.trainings[step.name] = by_folder[folder] = training
            _add(cost, step.kind, folder_bytes(training))
            continue
        for command in step.does:
            _command(cost, step, command, by_folder, plan)
        merges = [command.document for command in step.does if isinstance(command, Merge)]
        cost.scratch = max(cost.scratch, _scratch(merges, plan))
    cost.unknown = list(dict.fromkeys(cost.unknown))
    return cost


def _check_model(plan: Plan, planned: Mapping[str, Any]) -> None:
    """A base model that a step of the study makes has no configuration before that step has run."""
    model = str(plan.config["model"])
    inside = Path(model).is_relative_to(plan.root) and not (Path(model) / "config.json").is_file()
    if inside:
        makers = (step.name for step in plan.steps.values() if step.training and step.training.folder == model)
        maker = next(makers, "a step before the study")
        raise UserError(
            f"model: {model} is made by {maker}, expected a folder with config.json; run that step first, or give "
            "model=FOLDER with a model of the same size"
        )


def _add(cost: StudyCost, kind: str, size: int) -> None:
    cost.disk[kind] = cost.disk.get(kind, 0) + size


def _command(cost: StudyCost, step: Step, command: Command, made: dict[str, Training], plan: Plan) -> None:
    """Take in one command that trains nothing."""
    match command:
        case Measure():
            cost.evaluations += 1
            _sum(cost.calls, judge_calls(command), first=cost.evaluations == 1)
        case Merge():
            _add(cost, step.kind, _merged(command.document, plan))
        case Export():
            _add(cost, step.kind, _adapter(made[command.subspace].shapes))
        case Transfer():
            source = made[command.out] = made[command.subspace]
            _add(cost, step.kind, safetensors_bytes(subspace_tensors(source)) + config_bytes(source.shapes))
        case Fuse():
            _add(cost, step.kind, _adapter(_shapes(command.adapters[0], made, plan)))
        case OnPolicy():
            found = answers(command, Path(plan.cwd))
            cost.answers.count += found.count
            cost.answers.tokens += found.tokens
            cost.unknown += [f"{step.name} ({', '.join(found.left_out)})"] if found.left_out else []
        case _ if step.kind in ("prepare", "finish"):
            cost.unknown.append(step.name)


def _shapes(adapter: str, made: Mapping[str, Training], plan: Plan) -> Factors:
    """The factors of an adapter that the study makes, or that is there."""
    if adapter in made:
        return made[adapter].shapes
    model = model_shapes(str(plan.config["model"]), "model")
    return factor_shapes(model, adapter_shapes(Path(plan.cwd) / adapter, model, "tasks").ranks)


def _adapter(shapes: Factors) -> int:
    """Size of a plain LoRA adapter, fp32."""
    return safetensors_bytes(lora_tensors(shapes, torch.float32)) + config_bytes(shapes)


def _merged(document: Mapping[str, Any], plan: Plan) -> int:
    """Size of what mergekit writes for a document."""
    shapes = model_shapes(str(plan.config["model"]), "model")
    asked = document.get("out_dtype") or document.get("dtype")
    # LLaMA-Factory saves whole models in fp32, and mergekit writes the larger dtype.
    usual = torch.float32 if plan.config["adaptation"] == "full" else shapes.dtype
    dtype: Any = getattr(torch, str(asked), usual) if asked else usual
    return safetensors_bytes({name: (shape, dtype) for name, shape in shapes.tensors.items()})


def _scratch(documents: Sequence[Mapping[str, Any]], plan: Plan) -> int:
    """Bytes of the whole models that mergekit writes for each ``model+adapter`` that documents name."""
    named = {ref for document in documents for ref in _references(document) if "+" in ref}
    if not named:
        return 0
    shapes = model_shapes(str(plan.config["model"]), "model")
    return len(named) * safetensors_bytes({name: (shape, shapes.dtype) for name, shape in shapes.tensors.items()})


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [v for k, v in value.items() if k in ("model", "base_model") and isinstance(v, str)]
        return own + [ref for part in value.values() for ref in _references(part)]
    return [ref for part in value for ref in _references(part)] if isinstance(value, list) else []


def _sum(total: Calls, part: Calls, first: bool) -> None:
    total.answers += part.answers
    total.calls += part.calls
    total.prompt_tokens += part.prompt_tokens
    total.completion_tokens += part.completion_tokens
    total.judging |= part.judging
    total.model = part.model
    total.local = part.local and (total.local or first)
    if part.price is not None:
        total.price = (total.price or 0.0) + part.price
