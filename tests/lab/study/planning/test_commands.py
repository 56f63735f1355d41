"""Typed commands and the lines that they become."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from realign_plugin.lab.study.planning.commands import (
    Command,
    Export,
    Fuse,
    Line,
    Measure,
    Merge,
    OnPolicy,
    Shell,
    Train,
    Transfer,
    file_of,
    text,
    words,
)  # fmt: skip

COMMANDS: list[tuple[Command, str]] = [
    (Line(("realign", "data", "a b")), "realign data 'a b'"),
    (Shell("echo x | cat"), "echo x | cat"),
    (Train("t.yaml", {"stage": "dpo", "template": None}), "llamafactory-cli train t.yaml"),
    (
        Merge("m.yaml", {"merge_method": "ties"}, "out", "cache"),
        "mergekit-yaml m.yaml out --lora-merge-cache cache --random-seed 0 --quiet",
    ),
    (Export("subspace", "out", "soft"), "realign export subspace out --mask soft"),
    (Transfer("subspace", "out", "other"), "realign transfer subspace out --task-adapter other"),
    (
        Fuse("out", ("a", "b"), "ties", "aligned", {"task_weight": [0.3, 1], "ties_density": 0.2}),
        "realign fuse out a b --method ties --aligned aligned --task-weight 0.3,1 --ties-density 0.2",
    ),
    (
        OnPolicy("data", "own", False, "base", "tuned", None, {"prompts": ["p", "q"], "skill": []}, {"max_tokens": 9}),
        "realign data on-policy data --name own --model base --adapter tuned --prompts p --prompts q --max-tokens 9",
    ),
    (
        Measure({"pretrained": "m", "peft": None}, ("a", "b"), "out", True, {"limit": 3, "x": True, "y": False}, {}),
        "lm_eval --model hf --model_args pretrained=m --tasks a,b --output_path out --log_samples "
        "--apply_chat_template --limit 3 --x",
    ),
]


@pytest.mark.parametrize("peft", ["o'brien", 'a"b', "a(b", "{a}", "[a]", "a,b", "2024", "1e5", "a b", "a=b", "微调"])
def test_lm_eval_reads_a_path_as_it_is(peft: str) -> None:
    from lm_eval._cli.utils import MergeDictAction

    given = {"pretrained": "m", "peft": peft, "max_length": "64", "trust_remote_code": True}
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_args", nargs="+", action=MergeDictAction)
    line = words(Measure(given | {"revision": None}, ("a",), "out", True, {}, {}))
    read = parser.parse_args(line[line.index("--model_args") : line.index("--tasks")]).model_args
    assert read | {"max_length": "64"} == given
    assert (line[4][0] == "{") == (peft not in ("a b", "a=b", "微调"))  # others stay as earlier versions wrote them


@pytest.mark.parametrize(("command", "line"), COMMANDS, ids=[command.does for command, _ in COMMANDS])
def test_each_command_is_one_line_and_comes_back_from_json(command: Command, line: str) -> None:
    assert text(command) == line
    if not isinstance(command, Shell):
        assert shlex.split(line) == list(words(command))
    adapter: TypeAdapter[Command] = TypeAdapter(Command)
    assert adapter.validate_json(adapter.dump_json(command)) == command


def test_options_that_are_none_are_not_in_the_file() -> None:
    command = Train("t.yaml", {"stage": "dpo", "template": None, "learning_rate": 1e-05})
    assert yaml.safe_load(file_of(command)["t.yaml"]) == {"stage": "dpo", "learning_rate": 1e-05}


def test_metadata_are_json() -> None:
    line = words(Measure({}, ("a",), "out", False, {}, {"judge": "off", "safety_data": "文"}))
    assert json.loads(line[line.index("--metadata") + 1]) == {"judge": "off", "safety_data": "文"}


@pytest.mark.parametrize(
    ("model_args", "options"),
    [
        ({"pretrained": "m", "chat_template_args": {"enable_thinking": False}}, {"gen_kwargs": {"max_gen_toks": 24}}),
        ({"pretrained": "m", "enable_thinking": False}, {"gen_kwargs": ["max_gen_toks=24", "temperature=0"]}),
    ],
)
def test_lm_eval_reads_nested_options_as_they_are_meant(model_args: dict[str, Any], options: dict[str, Any]) -> None:
    from lm_eval._cli.harness import HarnessCLI

    line = words(Measure(model_args, ("a",), "out", False, options, {}))
    parser = HarnessCLI()._parser
    found = parser.parse_args(["run", *line[1:]])
    given = options["gen_kwargs"]
    wanted = given if isinstance(given, dict) else {"max_gen_toks": 24, "temperature": 0}
    assert dict(found.gen_kwargs) == wanted
    assert dict(found.model_args) == model_args
