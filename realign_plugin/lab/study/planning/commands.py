"""The commands of a study as typed objects; ``words`` renders their command lines."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from realign_plugin.lab.study.config.sections import Arguments

Words = tuple[str, ...]
SPLITTING: Final = frozenset(",'\"()[]{}")
PATHS: Final = ("pretrained", "peft", "tokenizer")
NUMBER: Final = re.compile(r"[\d_.]+(e\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A command of which only the line matters."""

    line: Words
    does: Literal["line"] = "line"


@dataclass(frozen=True)
class Shell:
    """The user's own text for a shell."""

    text: str
    does: Literal["shell"] = "shell"


@dataclass(frozen=True)
class Train:
    """``llamafactory-cli train``; its arguments are written to the file, those that are None left out."""

    file: str
    arguments: Arguments
    does: Literal["train"] = "train"


@dataclass(frozen=True)
class Merge:
    """``mergekit-yaml``; its document is written to the file, and models are merged with adapters in the cache."""

    file: str
    document: Arguments
    out: str
    cache: str
    does: Literal["merge"] = "merge"


@dataclass(frozen=True)
class Export:
    """``realign export``: a trained subspace as a LoRA adapter."""

    subspace: str
    out: str
    mask: str
    does: Literal["export"] = "export"


@dataclass(frozen=True)
class Transfer:
    """``realign transfer``: the mask of one adapter on another."""

    subspace: str
    out: str
    adapter: str
    task_weight: float | None = None
    does: Literal["transfer"] = "transfer"


@dataclass(frozen=True)
class Fuse:
    """``realign fuse``: several adapters in one."""

    out: str
    adapters: tuple[str, ...]
    method: str
    aligned: str | None
    options: Arguments
    does: Literal["fuse"] = "fuse"


@dataclass(frozen=True)
class OnPolicy:
    """``realign data on-policy``: what the aligned and a fine-tuned model answer to prompts from some sources."""

    folder: str
    name: str
    overwrite: bool
    model: str
    adapter: str
    aligned: str | None
    sources: dict[str, list[str]]
    options: Arguments
    does: Literal["on_policy"] = "on_policy"


@dataclass(frozen=True)
class Measure:
    """``lm_eval`` on one model; options that are None or False are left out."""

    model_args: Arguments
    tasks: tuple[str, ...]
    out: str
    chat_template: bool
    options: Arguments
    metadata: Arguments
    does: Literal["measure"] = "measure"


Command = Annotated[
    Line | Shell | Train | Merge | Export | Transfer | Fuse | OnPolicy | Measure, Field(discriminator="does")
]


def words(command: Command) -> Words:
    """The command line; the text for a shell is one word."""
    match command:
        case Line(line):
            return line
        case Shell(text):
            return (text,)
        case Train(file):
            return ("llamafactory-cli", "train", file)
        case Merge(file, _, out, cache):
            return ("mergekit-yaml", file, out, "--lora-merge-cache", cache, "--random-seed", "0", "--quiet")
        case Export(subspace, out, mask):
            return ("realign", "export", subspace, out, "--mask", mask)
        case Transfer(subspace, out, adapter, weight):
            weighted = () if weight is None else ("--task-weight", f"{weight:g}")
            return ("realign", "transfer", subspace, out, "--task-adapter", adapter, *weighted)
        case Fuse(out, adapters, method, aligned, options):
            found = ["realign", "fuse", out, *adapters, "--method", method, *_aligned(aligned)]
            for option, value in options.items():
                values = value if isinstance(value, list) else [value]
                found += ["--" + option.replace("_", "-"), ",".join(repr(number) for number in values)]
            return tuple(found)
        case OnPolicy():
            return _on_policy(command)
        case Measure():
            return _measure(command)


def _aligned(path: str | None) -> list[str]:
    return ["--aligned", path] if path else []


def _on_policy(command: OnPolicy) -> Words:
    found = ["realign", "data", "on-policy", command.folder, "--name", command.name]
    found += ["--overwrite"] if command.overwrite else []
    found += ["--model", command.model, "--adapter", command.adapter, *_aligned(command.aligned)]
    found += [word for option, given in command.sources.items() for one in given for word in (f"--{option}", one)]
    for key, value in command.options.items():
        found += [f"--{key.replace('_', '-')}", str(value)]
    return tuple(found)


def _is_plain(key: str, value: Any) -> bool:
    """Whether lm-eval reads an argument of a model back from ``key=value`` as it is."""
    if isinstance(value, dict | list):
        return False
    text = str(value)
    # It splits at commas outside quotes and brackets, and takes a path that is a number for one.
    return SPLITTING.isdisjoint(text) and not (key in PATHS and NUMBER.fullmatch(text))


def _measure(command: Measure) -> Words:
    given = {key: value for key, value in command.model_args.items() if value is not None}
    plain = all(_is_plain(key, value) for key, value in given.items())
    model = ",".join(f"{key}={value}" for key, value in given.items()) if plain else json.dumps(given)
    found = ["lm_eval", "--model", "hf", "--model_args", model]
    found += ["--tasks", ",".join(command.tasks), "--output_path", command.out, "--log_samples"]
    found += ["--apply_chat_template"] if command.chat_template else []
    for key, value in command.options.items():
        if isinstance(value, list):
            found += [f"--{key}", *map(str, value)]
        elif value is not False and value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            found += [f"--{key}"] if value is True else [f"--{key}", text]
    if command.metadata:
        found += ["--metadata", json.dumps(command.metadata, ensure_ascii=False)]
    return tuple(found)


def text(command: Command) -> str:
    """The command as it is typed into a shell."""
    return command.text if isinstance(command, Shell) else shlex.join(words(command))


def file_of(command: Command) -> dict[str, str]:
    """The file that is written before a command runs: its text by its path."""
    import yaml

    match command:
        case Train(file, values) | Merge(file, values):
            given = {key: value for key, value in values.items() if value is not None}
            return {file: str(yaml.safe_dump(given, sort_keys=False))}
    return {}
