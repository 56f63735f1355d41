"""What can be checked before anything runs, beyond the configuration itself: the hosts' names, the given models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from realign_plugin.errors import UserError, check_choice
from realign_plugin.lab.study import decided
from realign_plugin.lab.study.config.sections import Arguments
from realign_plugin.lab.study.config.study import StudyConfig
from realign_plugin.lab.study.decided import check_decided
from realign_plugin.lab.study.planning.commands import Train
from realign_plugin.lab.study.planning.plan import Plan

FILES: Final = ("deepspeed", "fsdp_config", "media_dir", "resume_from_checkpoint")
"""Arguments of a training that name a file or a folder."""


def check(config: StudyConfig) -> None:
    """Check what the hosts know and what is given.

    Raises:
        UserError: For the first mistake.
    """
    from realign_plugin.evaluation.command_line import check_metadata

    check_files(config)
    check_names(config)
    made = {"safety_data"} if config.prepare else set()  # a folder that a step before the study may make
    for what, metadata in _metadata(config).items():
        check_metadata({key: value for key, value in metadata.items() if key not in made}, what)
    if not config.prepare:
        check_model(config)
        check_adapters(config)
    check_asked(config)


def check_names(config: StudyConfig) -> None:
    """Check what needs neither models nor files: the hosts' arguments, options, settings, templates and tasks.

    Raises:
        UserError: For the first mistake.
    """
    from realign_plugin.evaluation.command_line import check_metadata, check_options
    from realign_plugin.training.settings.known_arguments import check_arguments
    from realign_plugin.training.templates import check_template

    own = {f"prepare.{entry.name}.train" for entry in (*config.prepare, *config.finish)}
    for name, arguments in trainings(config):
        check_arguments(arguments, name)
        if name not in own:
            check_decided(arguments, decided.TRAINING, name)
    check_decided(config.evaluate.model_args, decided.MODEL_ARGS, "evaluate.model_args")
    check_decided(config.evaluate.options, decided.OPTIONS, "evaluate.options")
    check_options(config.evaluate.options, "evaluate.options")
    if config.evaluate.columns:
        for label in config.evaluate.choose.columns or []:
            check_choice("evaluate.choose.columns", label, [column.label for column in config.evaluate.columns])
    for what, metadata in _metadata(config).items():
        check_metadata({key: value for key, value in metadata.items() if key != "safety_data"}, what)
    check_template(config.template, Path(config.model))
    include = config.evaluate.options.get("include_path")
    if include is None or Path(include).is_dir():  # else its tasks are not known yet
        check_tasks(config)


def check_values(plan: Plan) -> None:
    """Check the values of our own options in every training, as the training would when it starts.

    Raises:
        UserError: For the first mistake, with the training.
    """
    from realign_plugin.training.settings.distillation import check_skill_datasets
    from realign_plugin.training.settings.meaning import check_meaning
    from realign_plugin.training.settings.preflight import DISTILL, check_options, is_ours, split_paths

    commands = ((step.name, command) for step in plan.steps.values() for command in step.does)
    for name, given in ((name, command.arguments) for name, command in commands if isinstance(command, Train)):
        try:
            if is_ours(given):
                check_options(given)
            check_meaning(given)
            if given.get("stage") == DISTILL:
                skill, data, held = (
                    split_paths(given.get(key)) for key in ("skill_dataset", "dataset", "eval_dataset")
                )
                weight = given.get("distill_skill_weight")
                check_skill_datasets(skill, data, held, 1.0 if weight is None else weight)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def _metadata(config: StudyConfig) -> dict[str, Arguments]:
    """The metadata of each evaluation, with the section that holds them."""
    evaluate = config.evaluate
    return {
        "evaluate.metadata": evaluate.metadata,
        "evaluate.choose.metadata": evaluate.metadata | evaluate.choose.metadata,
    }


def check_files(config: StudyConfig) -> None:
    """Refuse files that the configuration names as inputs and that are not there.

    Raises:
        UserError: For the first that is missing.
    """
    named = {f"{entry.name}.inputs": entry.inputs for entry in (*config.prepare, *config.finish)}
    named["evaluate.inputs"] = config.evaluate.inputs
    for what, paths in named.items():
        for path in paths:
            if not Path(path).is_file():
                raise UserError(f"{what}: {path} is missing, expected a file; check the path")
    for what, path in () if config.prepare else _places(config):
        inside = Path(path).absolute().is_relative_to(config.root.absolute())  # a step may make it
        if not (Path(path).exists() or inside):
            raise UserError(f"{what}: {path} is missing, expected a file or a folder; check the path")


def _places(config: StudyConfig) -> Iterator[tuple[str, str]]:
    """Files and folders that the configuration names, beyond those that are planned with, and where."""
    evaluate = config.evaluate
    named = {"unaligned": config.unaligned, "evaluate.model_args.tokenizer": evaluate.model_args.get("tokenizer")}
    yield from ((what, name) for what, name in named.items() if isinstance(name, str) and _is_path(name))
    given = {"evaluate.options.include_path": evaluate.options.get("include_path")}
    given |= {f"{what}.reference": metadata.get("reference") for what, metadata in _metadata(config).items()}
    given |= {"align.model": config.align.model if config.align is not None else None}
    given |= {f"tasks.{name}.model": task.model for name, task in config.tasks.items()}
    for section, arguments in trainings(config):
        given |= {f"{section}.{name}": arguments.get(name) for name in FILES}
    paths = ((what, str(path)) for what, path in given.items() if isinstance(path, str | Path))
    yield from ((what, path) for what, path in paths if not path.lstrip().startswith("{"))  # JSON text


def _is_path(name: str) -> bool:
    """Whether the name of a model is a folder's and no hub id."""
    return name.startswith((".", "/", "~"))


def trainings(config: StudyConfig) -> Iterator[tuple[str, Arguments]]:
    """All arguments of trainings, with the section that holds them."""
    for name, arguments in config.train.items():
        yield f"train.{name}", arguments
    for number, part in enumerate(config.align.steps if config.align is not None else []):
        yield f"align.steps.{number}.train", part.train
    for name, task in config.tasks.items():
        yield f"tasks.{name}.train", task.train
    for name, method in config.methods.items():
        yield f"methods.{name}.train", method.train
    for name, fusion in (config.fusion.methods if config.fusion is not None else {}).items():
        yield f"fusion.methods.{name}.train", fusion.train
    for entry in (*config.prepare, *config.finish):
        yield f"prepare.{entry.name}.train", entry.train or {}


def check_model(config: StudyConfig) -> None:
    """Refuse a base model that is a folder and cannot be used: missing, without configuration, tokenizer or template.

    Raises:
        UserError: With what is missing.
    """
    from realign_plugin.training.templates import has_chat_template

    model = Path(config.model)
    if not model.is_dir():
        if _is_path(config.model):
            raise UserError(f"model: {model.absolute()} is missing, expected a folder or a hub id; check the path")
        return
    tokenizer = Path(config.evaluate.model_args.get("tokenizer") or model)
    if not (model / "config.json").exists():
        raise UserError(f"model: {model} holds no config.json, expected a model's folder; check the path")
    if not (model / "tokenizer_config.json").exists():
        raise UserError(
            f"model: {model} holds no tokenizer_config.json, expected its tokenizer next to the weights; save it there"
        )
    asked = next((name for name, dataset in config.data.items() if dataset.kind == "on_policy"), None)
    if asked is not None and has_chat_template(model) is False:
        raise UserError(
            f"data.{asked}: the tokenizer of {model} has no chat template, expected one to ask with; save it with one"
        )
    aligns = config.align is not None and bool(config.align.steps) and config.template is not None
    if config.evaluate.chat_template and not aligns and has_chat_template(tokenizer) is False:
        raise UserError(
            f"evaluate.chat_template: the tokenizer of {tokenizer} has no chat template, expected one to measure "
            "with; give evaluate.model_args.tokenizer a folder that has, or chat_template: false"
        )


def check_asked(config: StudyConfig) -> None:
    """Refuse on-policy answers where the alignment gives the tokenizer another chat template than they are asked with.

    Raises:
        UserError: With the data set.
    """
    asked = next((name for name, dataset in config.data.items() if dataset.kind == "on_policy"), None)
    aligns = config.align is not None and bool(config.align.steps)
    if asked is not None and aligns and config.template is not None and _replaces(config.template, config.model):
        raise UserError(
            f"data.{asked}: is asked with the chat template of {config.model}, but the models of align.steps are "
            f"trained and measured with {config.template}; give a template that renders as the tokenizer does, or "
            "save the tokenizer with the other one"
        )


def _replaces(template: str, model: str) -> bool:
    """Whether a training saves a template that renders otherwise than the tokenizer; False where that lacks."""
    from realign_plugin.training.template_choice import template_of
    from realign_plugin.training.templates import replacing_templates

    if template not in replacing_templates():
        return False
    try:
        return template_of(model) != template
    except UserError:  # none renders as the tokenizer does
        return True
    except (OSError, ValueError):
        return False


def check_adapters(config: StudyConfig) -> None:
    """Refuse given adapters that are not LoRA, cannot be read, or do not fit together: as the training would.

    Raises:
        UserError: With the task, and what does not fit.
    """
    if config.adaptation == "full" or (config.align is not None and config.align.steps):
        return
    given = {name: task.adapter for name, task in config.tasks.items() if task.adapter is not None}
    if not given:
        return
    from realign_plugin.subspace import SafetySubspace

    for name, adapter in given.items():
        try:
            SafetySubspace.from_adapters(config.align.adapter if config.align is not None else None, [adapter])
        except UserError as error:
            raise UserError(f"tasks.{name}.adapter: {error}") from error


def check_tasks(config: StudyConfig) -> None:
    """Refuse lm-eval tasks that do not exist, and prompt sets that an evaluation would ask for twice.

    Raises:
        UserError: For the first, with the closest name.
    """
    from realign_plugin.evaluation import task_names
    from realign_plugin.evaluation.prompt_sets import prompt_sets

    given = config.evaluate.options.get("include_path")
    include = Path(given) if given else None
    asked = {"evaluate.tasks": config.evaluate.tasks, "evaluate.choose.tasks": config.evaluate.choose.tasks}
    asked |= {f"tasks.{name}.evaluate": task.evaluate for name, task in config.tasks.items()}
    if config.fusion is not None:
        asked["fusion.evaluate"] = config.fusion.evaluate
    if config.ablations.topics is not None:
        asked["ablations.topics.evaluate"] = config.ablations.topics.evaluate
    for what, tasks in asked.items():
        task_names.check_tasks(tasks or [], include, what)
        held = ((part.name, name) for name in tasks or [] for part in prompt_sets([name], include))
        task_names.check_each_once(what, held)
