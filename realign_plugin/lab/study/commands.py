"""The commands of a study as typed objects; their command lines are rendered when they are needed."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from realign_plugin.lab.study.sections import Arguments

Words = tuple[str, ...]


class _Rendered:
    """What all commands have in common."""

    @property
    def words(self) -> Words:
        """The command line."""
        raise NotImplementedError

    @property
    def files(self) -> dict[str, str]:
        """Files that are written before it runs: text by path."""
        return {}

    def __str__(self) -> str:
        """As it is typed into a shell."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Line(_Rendered):
    """A command of which nothing but its line is of interest."""

    line: Words
    does: Literal["line"] = "line"

    @property
    def words(self) -> Words:
        """The command line."""
        return self.line


@dataclass(frozen=True)
class Shell(_Rendered):
    """The user's own text for a shell."""

    text: str
    does: Literal["shell"] = "shell"

    @property
    def words(self) -> Words:
        """The text, as one word."""
        return (self.text,)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Train(_Rendered):
    """``llamafactory-cli train``.

    Attributes:
        file: Where its arguments are written to.
        arguments: LLaMA-Factory's and ours.
    """

    file: str
    arguments: Arguments
    does: Literal["train"] = "train"

    @property
    def words(self) -> Words:
        """The command line."""
        return ("llamafactory-cli", "train", self.file)

    @property
    def files(self) -> dict[str, str]:
        """The arguments."""
        return {self.file: _yaml(self.arguments)}


@dataclass(frozen=True)
class Merge(_Rendered):
    """``mergekit-yaml``.

    Attributes:
        file: Where its document is written to.
        document: The document.
        out: Folder of the merged model.
        cache: Folder of the models that it merges adapters into first.
    """

    file: str
    document: Arguments
    out: str
    cache: str
    does: Literal["merge"] = "merge"

    @property
    def words(self) -> Words:
        """The command line."""
        options = ("--lora-merge-cache", self.cache, "--random-seed", "0", "--quiet")
        return ("mergekit-yaml", self.file, self.out, *options)

    @property
    def files(self) -> dict[str, str]:
        """The document."""
        return {self.file: _yaml(self.document)}


@dataclass(frozen=True)
class Export(_Rendered):
    """``realign export``: a trained subspace as a LoRA adapter."""

    subspace: str
    out: str
    mask: str
    does: Literal["export"] = "export"

    @property
    def words(self) -> Words:
        """The command line."""
        return ("realign", "export", self.subspace, self.out, "--mask", self.mask)


@dataclass(frozen=True)
class Transfer(_Rendered):
    """``realign transfer``: the mask of one adapter on another."""

    subspace: str
    out: str
    adapter: str
    does: Literal["transfer"] = "transfer"

    @property
    def words(self) -> Words:
        """The command line."""
        return ("realign", "transfer", self.subspace, self.out, "--task-adapter", self.adapter)


@dataclass(frozen=True)
class Fuse(_Rendered):
    """``realign fuse``: several adapters in one."""

    out: str
    adapters: tuple[str, ...]
    method: str
    aligned: str | None
    options: Arguments
    does: Literal["fuse"] = "fuse"

    @property
    def words(self) -> Words:
        """The command line."""
        words = ["realign", "fuse", self.out, *self.adapters, "--method", self.method]
        words += ["--aligned", self.aligned] if self.aligned else []
        for option, value in self.options.items():
            values = value if isinstance(value, list) else [value]
            words += ["--" + option.replace("_", "-"), ",".join(repr(number) for number in values)]
        return tuple(words)


@dataclass(frozen=True)
class OnPolicy(_Rendered):
    """``realign data on-policy``: what the aligned and a fine-tuned model answer.

    Attributes:
        folder: LLaMA-Factory's data folder.
        name: Of the data set.
        overwrite: Whether an earlier one is replaced.
        model: The base model.
        adapter: The fine-tuned adapter.
        aligned: The aligned one.
        sources: Where prompts come from, by option.
        options: The command's other options.
    """

    folder: str
    name: str
    overwrite: bool
    model: str
    adapter: str
    aligned: str | None
    sources: dict[str, list[str]]
    options: Arguments
    does: Literal["on_policy"] = "on_policy"

    @property
    def words(self) -> Words:
        """The command line."""
        words = ["realign", "data", "on-policy", self.folder, "--name", self.name]
        words += ["--overwrite"] if self.overwrite else []
        words += ["--model", self.model, "--adapter", self.adapter]
        words += ["--aligned", self.aligned] if self.aligned else []
        words += [word for option, given in self.sources.items() for one in given for word in (f"--{option}", one)]
        for key, value in self.options.items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        return tuple(words)


@dataclass(frozen=True)
class Measure(_Rendered):
    """``lm_eval`` on one model.

    Attributes:
        model_args: The model.
        tasks: lm-eval's tasks and groups.
        out: Folder of the results.
        chat_template: Whether prompts go through the chat template.
        options: Further options; None and False leave one out.
        metadata: Of our tasks.
    """

    model_args: Arguments
    tasks: tuple[str, ...]
    out: str
    chat_template: bool
    options: Arguments
    metadata: Arguments
    does: Literal["measure"] = "measure"

    @property
    def words(self) -> Words:
        """The command line."""
        arguments = ",".join(f"{key}={value}" for key, value in self.model_args.items() if value is not None)
        words = ["lm_eval", "--model", "hf", "--model_args", arguments]
        words += ["--tasks", ",".join(self.tasks), "--output_path", self.out, "--log_samples"]
        words += ["--apply_chat_template"] if self.chat_template else []
        for key, value in self.options.items():
            if value is not False and value is not None:
                words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        if self.metadata:
            words += ["--metadata", json.dumps(self.metadata, ensure_ascii=False)]
        return tuple(words)


Command = Annotated[
    Line | Shell | Train | Merge | Export | Transfer | Fuse | OnPolicy | Measure, Field(discriminator="does")
]


def _yaml(values: Arguments) -> str:
    """Options as a file; None leaves one out."""
    import yaml

    return str(yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False))
