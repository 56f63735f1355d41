"""The command ``realign repair``: its options, checked and combined."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realign_plugin.chat_templates import can_think
from realign_plugin.data.answering.chats import chat_tokenizer
from realign_plugin.data.prompts import called
from realign_plugin.data.rows.sources import BORDERLINE, DEFAULT_PAIRS, TASKS, resolve
from realign_plugin.errors import UserError, check_choice
from realign_plugin.files import write_text
from realign_plugin.lab.repair.as_study import as_study
from realign_plugin.lab.repair.checks import check_adapters, check_model
from realign_plugin.lab.repair.cost import lines
from realign_plugin.lab.repair.plan import BUDGETS, METHODS, WRITTEN, Inputs, Method
from realign_plugin.lab.repair.repair import Repair, file_hashes
from realign_plugin.outputs import check_adapter_folder, check_files, refuse_inputs
from realign_plugin.terminal import new_console

AUTO = "auto"
FAILED = 3
"""Exit code where the judge broke off, as lm_eval has it."""


@dataclass(frozen=True)
class Request:
    """Options of ``realign repair``; see ``Inputs`` for those that are not here.

    Attributes:
        out: Folder to write to.
        method: ``auto``, ``masks`` or ``lora``.
        write_study: Write the repair as a study to this file, and do nothing else.
        overwrite: Whether another adapter in ``out`` is replaced.
    """

    base: str
    adapter: Path
    out: Path
    aligned: Path | None = None
    prompts: Sequence[str] | None = None
    benign: Sequence[str] | None = None
    skill: Sequence[str] | None = None
    test: Sequence[str] | None = None
    test_benign: Sequence[str] | None = None
    test_skill: Sequence[str] | None = None
    budget: str = "standard"
    method: str = AUTO
    template: str | None = None
    judge: str | None = None
    seed: int = 0
    write_study: Path | None = None
    overwrite: bool = False

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """All sources by option, with the defaults."""
        names = ("skill", "test", "test_benign", "test_skill")
        first = {"prompts": self.prompts or (DEFAULT_PAIRS,), "benign": self.benign or (BORDERLINE,)}
        return {name: tuple(given) for name, given in (first | {n: getattr(self, n) or () for n in names}).items()}

    def inputs(self) -> Inputs:
        """Check and combine the options.

        Raises:
            UserError: If one is at fault.
        """
        check_choice("--budget", self.budget, BUDGETS)
        check_choice("--method", self.method, (AUTO, *METHODS))
        if self.template is not None:
            from realign_plugin.training.templates import check_template

            check_template(self.template, Path(self.base))
        given: list[str | Path | None] = [self.base, self.adapter, self.aligned]
        check_model(self.base)
        check_adapters(self.adapter, self.aligned, self.base)
        refuse_inputs(self.out, given)
        if not (self.out / "work" / "inputs.json").exists():
            check_adapter_folder(self.out, given, overwrite=self.overwrite)
            if not self.overwrite and (held := next((n for n in WRITTEN if (self.out / n).exists()), None)):
                raise UserError(
                    f"--out: {self.out} holds a {held} that no repair in it wrote, expected a folder without one; "
                    "give another folder, or --overwrite"
                )
        for name, some in self.sources.items():
            with called(f"--{name.replace('_', '-')}"):
                for one in some:
                    resolve(one, TASKS)
        methods: tuple[Method, ...] = tuple(name for name in METHODS if self.method in (AUTO, name))
        hashes = file_hashes(
            self.base, [self.adapter, self.aligned], [one for some in self.sources.values() for one in some]
        )
        names = ("base", "adapter", "aligned", "budget", "template", "judge", "seed")
        same = {name: getattr(self, name) for name in names}
        return Inputs.model_validate(same | self.sources | {"methods": methods, "files": hashes})


def repair(request: Request) -> None:
    """Repair an adapter and print before and after.

    Raises:
        UserError: If an input is at fault.
    """
    inputs, out, write_study = request.inputs(), request.out, request.write_study
    console = new_console()
    if write_study is not None:
        from realign_plugin.training.template_choice import template_of

        check_files(write_study, inputs=[one for some in request.sources.values() for one in some])
        template, tokenizer = inputs.template or template_of(inputs.base), chat_tokenizer(inputs.base, "BASE")
        write_text(write_study, as_study(inputs, out, write_study.name, template, can_think(tokenizer)))
        console.print(f"{write_study}: for `realign study`")
        return
    job = Repair(inputs, out)
    if not inputs.skill:
        console.print("No --skill: the fine-tuned model's skill is neither protected nor measured.")
    for line in (*map(str, job.left_out), *lines(inputs, job.parts)):
        console.print(line)
    try:
        job.run(console.print)
    except RuntimeError as error:
        if isinstance(error, NotImplementedError | RecursionError):
            raise
        raise SystemExit(f"error: {error}") from error
    console.print(f"Adapter, before_after.json and report.html: {os.fspath(out)}")
    if job.session is not None and (failure := job.session.failure):
        print(f"error: {failure}; here the same command asks it again", file=sys.stderr)
        raise SystemExit(FAILED)
