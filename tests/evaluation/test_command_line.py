from __future__ import annotations

from pathlib import Path

import pytest

from realign_plugin.errors import UserError
from realign_plugin.evaluation.command_line import check_metadata, check_options, known_options


def test_the_options_are_those_of_lm_evals_parser() -> None:
    from lm_eval._cli.harness import HarnessCLI

    run = HarnessCLI()._parser._subparsers._group_actions[0].choices["run"]
    theirs = {word.removeprefix("--") for action in run._actions for word in action.option_strings if word[:2] == "--"}
    assert set(known_options()) == theirs - {"help"}


def test_an_option_that_is_misspelt_names_near_ones() -> None:
    check_options({"limit": 3, "batch_size": "auto", "gen_kwargs": "x=1"}, "evaluate.options")
    with pytest.raises(UserError, match=r"evaluate\.options: 'limmit' is unknown, expected one of .*limit"):
        check_options({"limmit": 3}, "evaluate.options")


def test_metadata_nearly_ours_are_refused_and_others_left_alone(tmp_path: Path) -> None:
    check_metadata({"prompts": "mine.json", "safety_data": str(tmp_path), "judge_model": "m"}, "evaluate.metadata")
    with pytest.raises(UserError, match="did you mean 'safety_data'"):
        check_metadata({"safty_data": str(tmp_path)}, "evaluate.metadata")
    with pytest.raises(UserError, match="is not a folder"):
        check_metadata({"safety_data": str(tmp_path / "gone")}, "evaluate.metadata")
