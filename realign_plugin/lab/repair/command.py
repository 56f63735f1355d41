"""The command ``realign repair``: its options, checked and put together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from realign_plugin.data.sources import BORDERLINE, DEFAULT_PAIRS
from realign_plugin.errors import UserError, check_choice
from realign_plugin.files import write_text
from realign_plugin.lab.repair.as_study import as_study
from realign_plugin.lab.repair.checks import check_base, check_model
from realign_plugin.lab.repair.cost import lines
from realign_plugin.lab.repair.plan import BUDGETS, METHODS, Inputs, Method
from realign_plugin.lab.repair.repair import Repair, file_hashes
from realign_plugin.outputs import check_adapter_folder, check_files, refuse_inputs
from realign_plugin.terminal import new_console

AUTO = "auto"


def repair(
    base: str,
    adapter: Path,
    out: Path,
    *,
    aligned: Path | None = None,
    prompts: Sequence[str] | None = None,
    benign: Sequence[str] | None = None,
    skill: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    test_benign: Sequence[str] | None = None,
    test_skill: Sequence[str] | None = None,
    budget: str = "standard",
    method: str = AUTO,
    template: str | None = None,
    judge: str | None = None,
    seed: int = 0,
    write_study: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Repair an adapter and print before and after; see ``Inputs`` for the options.

    Args:
        base: The base model.
        adapter: LoRA adapter of the fine-tuned model.
        out: Folder to write to.
        aligned: LoRA adapter of the aligned model.
        prompts: Sources of harmful prompts.
        benign: Sources of harmless prompts.
        skill: Sources of the skill's rows.
        test: Harmful prompts to measure with.
        test_benign: Harmless prompts to measure with.
        test_skill: Rows of the skill to measure with.
        budget: ``quick``, ``standard`` or ``thorough``.
        method: ``auto``, ``masks`` or ``lora``.
        template: LLaMA-Factory's chat template.
        judge: Model that judges.
        seed: Of all choices.
        write_study: Write the repair as a study to this file, and do nothing else.
        overwrite: Whether another adapter in ``out`` is replaced.

    Raises:
        UserError: If an input is at fault.
    """
    check_choice("--budget", budget, BUDGETS)
    check_choice("--method", method, (AUTO, *METHODS))
    methods: tuple[Method, ...] = tuple(name for name in METHODS if method in (AUTO, name))
    if template is not None:
        from realign_plugin.training.templates import check_template

        check_template(template, Path(base))
    check_model(base)
    check_base(adapter, "ADAPTER", base)
    if aligned is not None:
        check_base(aligned, "--aligned", base)
    refuse_inputs(out, [base, adapter, aligned])
    if not (out / "work" / "inputs.json").exists():
        check_adapter_folder(out, [base, adapter, aligned], overwrite=overwrite)
    harmful, harmless = tuple(prompts or (DEFAULT_PAIRS,)), tuple(benign or (BORDERLINE,))
    sources = (*harmful, *harmless, *(skill or ()), *(test or ()), *(test_benign or ()), *(test_skill or ()))
    inputs = Inputs(
        base=base, adapter=adapter, aligned=aligned, prompts=harmful, benign=harmless, skill=tuple(skill or ()),
        test=tuple(test or ()), test_benign=tuple(test_benign or ()), test_skill=tuple(test_skill or ()),
        budget=budget, methods=methods,
        template=template, judge=judge, seed=seed, files=file_hashes([adapter, aligned], sources),
    )  # fmt: skip
    console = new_console()
    if write_study is not None:
        check_files(write_study, inputs=sources)
        write_text(write_study, as_study(inputs, out, write_study.name))
        console.print(f"{write_study}: for `realign study`")
        return
    job = Repair(inputs, out)
    if not skill:
        console.print("No --skill: what the fine-tuned model learnt is neither protected nor measured.")
    for line in lines(inputs, job.parts):
        console.print(line)
    try:
        job.run(console.print)
    except RuntimeError as error:
        if isinstance(error, NotImplementedError | RecursionError):
            raise
        raise SystemExit(f"error: {error}") from error
    console.print(f"Adapter, before_after.json and report.html: {os.fspath(out)}")


__all__ = ["UserError", "repair"]
