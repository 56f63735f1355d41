"""The hooks into LLaMA-Factory; its internals are touched here and nowhere else."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from realign_plugin.files import try_folder
from realign_plugin.method.compiled import check_compiler
from realign_plugin.outputs import refuse_inputs
from realign_plugin.subspace.files import PEFT_TYPE
from realign_plugin.training import resuming
from realign_plugin.training.fsdp import prepare_fsdp
from realign_plugin.training.recomputing import restoring_random_numbers
from realign_plugin.training.settings import (
    bases,
    command_line,
    going_on,
    host_settings,
    inference,
    preflight,
    processes,
    sources,
)
from realign_plugin.training.settings.command_line import exit_on_user_error
from realign_plugin.training.settings.meaning import check_meaning
from realign_plugin.training.settings.preflight import HOST_STAGES


def attach_launcher(launcher: ModuleType) -> None:
    """Check a training command before torchrun starts processes for it; end a user's mistake with one line."""
    launch = launcher.launch

    @functools.wraps(launch)
    def checked() -> None:
        if sys.argv[1:2] == ["train"] and not {"-h", "--help"} & set(sys.argv[2:]):
            started = processes.launched_by()
            command_line.check_command(sys.argv[2:], by_torchrun=started == "torchrun")
            if sources.kept and started:
                sources.kept.clear()
        launch()

    launcher.launch = exit_on_user_error(checked)  # type: ignore[attr-defined]


def attach_v1_launcher(launcher: ModuleType) -> None:
    """With ``USE_V1=1``, which knows none of our arguments: end a command for one of our stages with one line."""
    launch = launcher.launch

    @functools.wraps(launch)
    def checked() -> None:
        command_line.refuse_v1(sys.argv[2:])
        launch()

    launcher.launch = exit_on_user_error(checked)  # type: ignore[attr-defined]


def attach_parser(parser: ModuleType) -> None:
    """Put our argument class into the parser's lists, and our checks around its functions."""
    from llamafactory.hparams.finetuning_args import FinetuningArguments

    from realign_plugin.training.settings.arguments import RealignFinetuningArguments

    for classes in vars(parser).values():
        if isinstance(classes, list) and FinetuningArguments in classes:  # for training, inference, Megatron …
            classes[:] = [RealignFinetuningArguments if cls is FinetuningArguments else cls for cls in classes]

    verify = parser._verify_model_args

    @functools.wraps(verify)
    def verify_model_args(model_args: Any, data_args: Any, finetuning_args: Any) -> None:
        inference.check_inference(
            model_args.adapter_name_or_path or [],
            backend=str(getattr(model_args.infer_backend, "value", model_args.infer_backend)),
            export_dir=model_args.export_dir,
            quantised=bool(model_args.quantization_bit) or inference.is_quantised_model(model_args.model_name_or_path),
            options=finetuning_args.options(),
            loader=next((name for name in inference.LOADERS if getattr(model_args, name, False)), None),
        )
        bases.check_base_of(model_args.model_name_or_path, model_args.adapter_name_or_path or [])
        if model_args.export_dir:
            bases.check_room(model_args.model_name_or_path, model_args.adapter_name_or_path or [])
        verify(model_args, data_args, finetuning_args)

    parser._verify_model_args = verify_model_args  # type: ignore[attr-defined]
    parser._parse_train_args = _prepared(parser._parse_train_args)  # type: ignore[attr-defined]
    parser._parse_infer_args = _inferring(parser._parse_infer_args)  # type: ignore[attr-defined]
    parser.get_train_args = _restored(parser.get_train_args)  # type: ignore[attr-defined]
    parser.get_infer_args = _restored(parser.get_infer_args)  # type: ignore[attr-defined]
    parser.get_eval_args = _restored(parser.get_eval_args)  # type: ignore[attr-defined]


def _restored(get_args: Callable[..., Any]) -> Callable[..., Any]:
    """Put the real names of our stage and type back into what the host's function returns."""

    @functools.wraps(get_args)
    def run(args: Any = None) -> Any:
        groups = get_args(args)
        for group in groups:
            if hasattr(group, "real_names"):
                group.restore()
        return groups

    return run


def _prepared(parse: Callable[..., Any]) -> Callable[..., Any]:
    """After a training run's arguments are parsed and before the host acts on them: our checks and our settings."""
    from realign_plugin.training.settings.arguments import given_options

    @functools.wraps(parse)
    def run(args: Any = None) -> Any:
        groups = parse(args)
        model_args, data_args, training_args, finetuning_args, _ = groups
        given = given_options(groups, args)
        names = finetuning_args.real_names
        if preflight.is_ours(names | given):
            if "learning_rate" not in given:
                choose_learning_rate(training_args, names["finetuning_type"])
            prepare_training(model_args, training_args, finetuning_args, given)
            host_settings.check_data(data_args, finetuning_args)
            return groups
        check_meaning(given)
        if training_args.do_train and not finetuning_args.create_new_adapter:
            preflight.check_stock_training(model_args.adapter_name_or_path or [], names["stage"])
        return groups

    return run


def _inferring(parse: Callable[..., Any]) -> Callable[..., Any]:
    """After the arguments of an export, chat or API run are parsed: which of our options mean something."""
    from realign_plugin.training.settings.arguments import given_options

    @functools.wraps(parse)
    def run(args: Any = None) -> Any:
        groups = parse(args)
        check_meaning(given_options(groups, args), trains=False)
        return groups

    return run


def choose_learning_rate(training_args: Any, kind: str) -> None:
    """Take a rate that moves logits where none was given: at the host's, which is for weights, no mask changes.

    Args:
        training_args: The host's training arguments; changed in place.
        kind: The fine-tuning type.
    """
    from realign_plugin.tuner.learning_rate import RECOMMENDED, RECOMMENDED_LORA

    rate = RECOMMENDED if kind == preflight.TYPE else RECOMMENDED_LORA
    training_args.learning_rate = rate
    if training_args.do_train:
        _say(f"learning_rate is not set: {rate:g}, as finetuning_type: {kind} needs it")


def prepare_training(model_args: Any, training_args: Any, finetuning_args: Any, given: Mapping[str, Any]) -> None:
    """Check a run of one of our stages, read its adapters, and choose the settings that masks need.

    Args:
        model_args: The host's model arguments; changed in place.
        training_args: The host's training arguments; changed in place.
        finetuning_args: Ours; the subspace that was built is kept there until the model is loaded.
        given: The arguments that were given, by name.

    Raises:
        UserError: If something in them cannot work.
    """
    options = finetuning_args.options() | finetuning_args.real_names
    resumed = list(model_args.adapter_name_or_path or [])
    preflight.check_training(options, resumed)
    check_meaning(given)
    if training_args.do_train:
        tasks = [preflight.split_paths(options.get(name)) for name in ("task_adapters", "task_models")]
        others = [finetuning_args.ref_model, *preflight.split_paths(finetuning_args.ref_model_adapters)]
        read = [model_args.model_name_or_path, options.get("aligned_adapter"), *tasks[0], *tasks[1], *resumed, *others]
        refuse_inputs(training_args.output_dir, read)
        if int(os.environ.get("RANK", "0")) == 0:
            try_folder(training_args.output_dir)
    if resumed:
        going_on.go_on_from(resumed[0], given, finetuning_args)
        options["mask_keep_weight"] = finetuning_args.mask_keep_weight
    processes.check_processes(options | {name: getattr(training_args, name, None) for name in processes.HOST_OPTIONS})
    prepare_fsdp(model_args, training_args, finetuning_args)
    for line in host_settings.check_settings(model_args, training_args, finetuning_args):
        _say(line)
    if model_args.use_unsloth_gc:
        _restore_random_numbers()
    if not resumed:
        options["model_name_or_path"] = model_args.model_name_or_path
        finetuning_args.subspace = sources.build_subspace(options)
        bases.check_base_of_sources(model_args.model_name_or_path, finetuning_args.subspace)
        if (costs := sources.memory_line(finetuning_args.subspace)) is not None:
            _say(costs)
    if finetuning_args.mask_compile and training_args.do_train:
        check_compiler(training_args.device)
    if training_args.do_train:
        finetuning_args.record = resuming.check_start(training_args, finetuning_args, resumed)
    if training_args.ddp_broadcast_buffers is None:
        training_args.ddp_broadcast_buffers = False
    if finetuning_args.mask_keep_weight > 0:
        # The penalty reaches the logits outside the checkpointed layers: reentrant checkpointing would make DDP see
        # each of them twice.
        model_args.use_reentrant_gc = False


def _say(line: str) -> None:
    """Tell the user once, however many processes there are."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"realign-plugin: {line}", file=sys.stderr)


def _restore_random_numbers() -> None:
    """Make the host's ``use_unsloth_gc`` restore random numbers, in this process from here on."""
    from llamafactory.model.model_utils import checkpointing

    stock = checkpointing.get_unsloth_gradient_checkpointing_func
    if not hasattr(stock, "__wrapped__"):

        @functools.wraps(stock)
        def restoring() -> Callable[..., Any]:
            return restoring_random_numbers(stock())

        checkpointing.get_unsloth_gradient_checkpointing_func = restoring


def attach_adapter(adapter: ModuleType) -> None:
    """Dispatch the fine-tuning type ``safety_subspace``."""
    original = adapter.init_adapter

    @functools.wraps(original)
    def init_adapter(config: Any, model: Any, model_args: Any, finetuning_args: Any, is_trainable: bool) -> Any:
        kind, built = finetuning_args.finetuning_type, getattr(finetuning_args, "subspace", None)
        loaded = model_args.adapter_name_or_path or []
        given: dict[str, Any] = getattr(finetuning_args, "options", dict)()
        asked = not is_trainable and inference.asks_for_subspace(loaded, given)
        if kind != preflight.TYPE and built is None and not asked:
            found = original(config, model, model_args, finetuning_args, is_trainable)
            kinds = {one.peft_type for one in getattr(found, "peft_config", {}).values()}
            if is_trainable:  # an adapter of the hub, or in a subfolder, is known only now
                preflight.check_stock_training(loaded, finetuning_args.stage, lambda _: PEFT_TYPE in kinds)
            return found
        from realign_plugin.training.adapter import init_distilled_lora, init_safety_subspace

        if kind == preflight.LORA and built is not None:
            return init_distilled_lora(model, finetuning_args)
        return init_safety_subspace(model, model_args, finetuning_args, is_trainable)

    adapter.init_adapter = init_adapter  # type: ignore[attr-defined]


def attach_tuner(tuner: ModuleType) -> None:
    """Dispatch our stages; where no launcher does, end a user's mistake with one line."""
    originals = {stage: getattr(tuner, f"run_{stage}") for stage in HOST_STAGES.values()}
    run_exp = tuner.run_exp

    def routed(stage: str) -> Callable[..., Any]:
        @functools.wraps(originals[stage])
        def run(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *rest: Any) -> Any:
            real = getattr(finetuning_args, "real_names", {}).get("stage")
            if real not in HOST_STAGES:
                return originals[stage](model_args, data_args, training_args, finetuning_args, *rest)
            from realign_plugin.training import distill_workflow, workflow

            finetuning_args.restore()
            start = workflow.run_mask_dpo if real == preflight.STAGE else distill_workflow.run_safety_distill
            return start(model_args, data_args, training_args, finetuning_args, rest[-1] if rest else None)

        return run

    def get_train_args(args: Any = None) -> Any:
        groups = host_get_train_args(args)
        real = getattr(groups[3], "real_names", {}).get("stage")
        if real in HOST_STAGES:
            host_settings.check_trainer(groups[3], real)
            groups[3].stage = HOST_STAGES[real]  # the host's dispatch knows this name; what it runs puts ours back
        return groups

    host_get_train_args = tuner.get_train_args
    for stage in originals:
        setattr(tuner, f"run_{stage}", routed(stage))
    tuner.get_train_args = get_train_args  # type: ignore[attr-defined]

    @functools.wraps(run_exp)
    def run(args: Any = None, *rest: Any, **more: Any) -> None:
        # A command line, by torchrun, accelerate or `python -m llamafactory.launcher`; callers in Python get errors.
        is_command = args is None or "TORCHELASTIC_RUN_ID" in os.environ
        (exit_on_user_error(run_exp) if is_command else run_exp)(args, *rest, **more)

    tuner.run_exp = run  # type: ignore[attr-defined]
