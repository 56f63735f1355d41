"""A ``llamafactory-cli train`` command line, read and checked before the host is imported or processes are started."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from realign_plugin.errors import UserError
from realign_plugin.subspace.options import SubspaceOptions
from realign_plugin.training.settings.distillation import DistillArguments
from realign_plugin.training.settings.going_on import trained_further
from realign_plugin.training.settings.meaning import check_meaning
from realign_plugin.training.settings.preflight import (
    OPTIONS,
    STAGES,
    TYPE,
    check_options,
    check_training,
    is_ours,
    split_paths,
)
from realign_plugin.training.settings.processes import HOST_OPTIONS, check_processes
from realign_plugin.training.settings.sources import build_subspace, kept, sources_of


def exit_on_user_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a user's mistake into its one line and exit code 2."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if int(os.environ.get("RANK", "0")) == 0:
                print(f"error: {error}", file=sys.stderr)
            sys.exit(UserError.exit_code)

    return run


def command_options(argv: Sequence[str]) -> dict[str, Any]:
    """Options of a ``llamafactory-cli train`` command line, without importing the host.

    Args:
        argv: What follows ``train``: a YAML or JSON file with overrides, or flags.

    Returns:
        All options by name (a file), or ours (flags); empty where the file cannot be read, which the host then says.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        from omegaconf import OmegaConf

        try:
            merged = OmegaConf.merge(OmegaConf.load(argv[0]), OmegaConf.from_cli(list(argv[1:])))
        except Exception:  # whatever is wrong with the file is for the host to say
            return {}
        values = OmegaConf.to_container(merged)
        return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    types = get_type_hints(SubspaceOptions) | {"mask_noise_end": float, "mask_compile": bool, "do_train": bool}
    types |= {name: hint for name, hint in get_type_hints(DistillArguments).items() if hint is float}
    for name in (*OPTIONS, "adapter_name_or_path", "model_name_or_path", "do_train", *HOST_OPTIONS):
        kind: Any = types.get(name, str)
        kind = _boolean if kind is bool else kind
        bare: dict[str, Any] = {"nargs": "?", "const": True} if kind is _boolean else {}
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=kind, **bare)
        if kind is _boolean:
            off: dict[str, Any] = {"dest": name, "action": "store_const", "const": False}
            parser.add_argument(f"--no_{name}", f"--no-{name.replace('_', '-')}", **off)
    try:
        known, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return {}
    return {name: value for name, value in vars(known).items() if value is not None}


def _boolean(text: str) -> bool:
    return text.lower() in ("true", "1", "yes", "y", "t", "on")


def _is_ours(options: dict[str, Any]) -> bool:
    return options.get("stage") in STAGES or options.get("finetuning_type") == TYPE


def refuse_v1(argv: Sequence[str]) -> None:
    """Refuse one of our trainings where ``USE_V1`` starts the host's v1.

    Args:
        argv: What follows the command's name.

    Raises:
        UserError: If it is one of ours.
    """
    options = command_options(argv)
    if _is_ours(options):
        name = "stage" if options.get("stage") in STAGES else "finetuning_type"
        raise UserError(f"USE_V1: LLaMA-Factory's v1 has no {name} {options[name]}, expected 0; unset USE_V1")


def check_words(words: Sequence[str]) -> None:
    """Refuse words that torchrun's command, as the host puts it together, would split.

    Args:
        words: A training's arguments.

    Raises:
        UserError: With the first that has white space in it.
    """
    for word in words:
        if word.split() != [word]:
            raise UserError(
                f"{word!r}: has white space, at which LLaMA-Factory splits the command for several GPUs, expected a "
                "path without; rename the folder, or train on one GPU (CUDA_VISIBLE_DEVICES=0)"
            )


def check_command(argv: Sequence[str], *, by_torchrun: bool = False) -> None:
    """Check a training command before processes are started for it; the subspace that was built is kept for it.

    Args:
        argv: What follows ``train``.
        by_torchrun: Whether the host hands the command on to torchrun.

    Raises:
        UserError: If our options or the adapters are at fault.
    """
    options = command_options(argv)
    if not is_ours(options):
        check_meaning(options)
        return
    for name in ("USE_MCA", "USE_MEGATRON_BRIDGE"):
        if os.environ.get(name, "").lower() in ("true", "y", "1"):
            raise UserError(f"{name}: Megatron's trainers have none of our stages, expected 0; unset {name}")
    if by_torchrun:
        check_words(argv)
    check_options(options)
    resumed = split_paths(options.get("adapter_name_or_path"))
    check_training(options, resumed)
    check_meaning(options)
    if resumed:
        options["mask_keep_weight"] = trained_further(resumed[0], options).mask_keep_weight
    check_processes(options)
    if not resumed:
        kept[:] = [(sources_of(options), build_subspace(options))]
