"""The command ``realign estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate.reading import check_keys, is_study, read_values
from realign_plugin.training.settings.known_arguments import check_arguments


def estimate(
    config: Path, overrides: Sequence[str], targets: Sequence[str], processes: int, as_json: bool
) -> dict[str, Any]:
    """Estimate what a training or a study will cost.

    Args:
        config: Its YAML file.
        overrides: ``key=value``, on top of it.
        targets: Of a study: which of its targets.
        processes: Over how many processes a training would be spread.
        as_json: Print JSON instead of tables.

    Returns:
        The estimate.

    Raises:
        UserError: For the first mistake.
    """
    import json

    values = read_values(config, overrides)
    study = is_study(config, values)
    if targets and not study:
        raise UserError(f"--target: {targets[0]} for a training, expected it for a study only; leave it out")
    _quiet()
    if study:
        from realign_plugin.lab.estimate.report import print_study, study_values
        from realign_plugin.lab.estimate.study import study_cost
        from realign_plugin.lab.study.checks import check_names
        from realign_plugin.lab.study.config.loading import load
        from realign_plugin.lab.study.launch import build

        asked = load(config, overrides)
        check_names(asked)
        plan = build(asked, Path.cwd())
        found, show = study_values(study_cost(plan, list(targets) or ["main"])), print_study
    else:
        from realign_plugin.lab.estimate.report import print_training, training_values
        from realign_plugin.lab.estimate.training import read_training

        check_keys(values, config)
        check_arguments(values, config.name)
        found, show = training_values(read_training(config.stem, values), processes), print_training
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found, config)
    return found


def _quiet() -> None:
    """Keep the libraries' own notes off the terminal; mistakes are reported in our words.

    Raises:
        UserError: If a library that gives a model's shapes is missing.
    """
    import warnings

    try:
        import peft  # noqa: F401
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(
            f"{error.name}: is not installed, expected what a training needs; pip install 'realign-plugin[train]'"
        ) from error
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"torch|peft|transformers")
