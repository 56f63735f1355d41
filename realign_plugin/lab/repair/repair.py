"""The whole repair: prompts, on-policy data, trainings, the choice, the adapter, before and after."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realign_plugin.chat_templates import can_think
from realign_plugin.data.answering.chats import chat_tokenizer
from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.on_policy import on_policy
from realign_plugin.data.on_policy_options import Amounts, Models, Sources
from realign_plugin.data.recipe import Request
from realign_plugin.errors import UserError
from realign_plugin.files import clean_up, model_stamp, sha256, write_json, write_text
from realign_plugin.lab.repair import parts, running, training, writing
from realign_plugin.lab.repair.as_study import as_study
from realign_plugin.lab.repair.card import card
from realign_plugin.lab.repair.checks import check_prompts
from realign_plugin.lab.repair.dial import Candidate, Cost, can_turn, cost, write_between
from realign_plugin.lab.repair.measuring import ALIGNED, Measurer
from realign_plugin.lab.repair.outcome import Verdict, row_of, verdict
from realign_plugin.lab.repair.plan import SKILL_TOKENS, Folders, Inputs, Method, default_batch_size
from realign_plugin.lab.repair.room import Room
from realign_plugin.lab.repair.skill import FINE_TUNED
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, read_lora
from realign_plugin.text_files import checked, read_json
from realign_plugin.training.settings.command_line import check_words

if TYPE_CHECKING:
    from realign_plugin.evaluation.session import Session


class Repair:
    """One repair, from its inputs to its files; what an earlier run with the same inputs did is not repeated."""

    def __init__(self, inputs: Inputs, out: Path, *, answerer: Callable[..., Answerer] = Answerer) -> None:
        """Check what can be checked without loading a model.

        Args:
            inputs: What the user gave.
            out: Where to write.
            answerer: What loads the models.

        Raises:
            UserError: If an input is at fault.
        """
        # However the user names the folder, an interrupted training in it is the same one.
        self.inputs, self.folders, self._answerer = inputs, Folders(Path(os.path.realpath(out))), answerer
        if several_gpus():
            check_words([str(self.folders.work)])
        self.session = _session(inputs.judge)
        tokenizer = chat_tokenizer(inputs.base, "BASE")
        room = Room(tokenizer, inputs.base, inputs.spent.answer_tokens)
        self.parts, self.left_out = parts.split(inputs, room), room.left_out
        check_prompts(tokenizer, inputs.base, self.parts.prompts)
        self._can_think = can_think(tokenizer)
        self._batch_size = default_batch_size()

    def run(self, say: Callable[[str], None]) -> Verdict:
        """Do what is left to do."""
        with running.only_one(self.folders.work) as lock:
            self._check_inputs()
            if self.session is not None:
                self.session.prepare()
            template = self._template()
            write_json(self._noted, self.inputs.model_dump(mode="json"))
            if self._can_think:
                say(f"{self.inputs.base} can think: it is asked, trained and measured without thinking")
            say("1/4 the models' own answers")
            try:
                skill = self._on_policy()
            except UserError:
                if not self._made.exists():  # else the data and the models of these inputs are there
                    self._noted.unlink()  # the command will be another one
                raise
            say(f"2/4 training: {' and '.join(self.inputs.methods)}")
            trained = {method: self._train(method, template, skill, lock) for method in self.inputs.methods}
            say("3/4 choosing on validation prompts")
            kept, tried = self._choose()
            self._keep(kept)
            say("4/4 before and after")
            return self._compare(kept, tried, trained)

    @property
    def _noted(self) -> Path:
        """The file of the inputs: there once nothing is left to check before the models answer."""
        return self.folders.work / "inputs.json"

    @property
    def _made(self) -> Path:
        """The file that is there once the data sets are."""
        return self.folders.data / "done.json"

    def _check_inputs(self) -> None:
        file = self._noted
        if file.exists():
            found = checked(Inputs, read_json(file, "", "the inputs of a repair"), str(file), "give another --out")
            mine, noted = self.inputs.resolved, found.resolved
            # Earlier versions looked at fewer files.
            noted = noted.model_copy(update={"files": mine.files | noted.files})
            if noted != mine:
                changed = [n for n in Inputs.model_fields if getattr(noted, n) != getattr(mine, n)]
                raise UserError(
                    f"--out: {self.folders.out} holds a repair with other inputs ({', '.join(changed)}), expected the "
                    "same ones; give another folder, or remove this one"
                )
            self.inputs = found.model_copy(update={"files": noted.files})  # an interrupted training has these names

    def _template(self) -> str | None:
        from realign_plugin.training.template_choice import template_of

        if self.inputs.template is not None:
            return self.inputs.template
        file = self.folders.work / "template.json"
        if not (file.exists() and self._noted.exists()):
            write_json(file, {"template": template_of(self.inputs.base)})
        name = read_json(file, "", "a template's name")["template"]
        return None if name is None else str(name)

    def _on_policy(self) -> bool:
        """Make the data sets; returns whether there is one of the skill."""
        files = parts.write(self.folders.data / "prompts", self.parts.train)
        if not self._made.exists():
            spent = self.inputs.spent
            given = {kind: [str(files[kind])] if kind in files else [] for kind in parts.KINDS}
            made = on_policy(
                Request(self.folders.data, training.DATA, 0.0, seed=self.inputs.seed, overwrite=True),
                Sources(
                    *(given["harmful"], given["benign"], given["skill"]),
                    split_from=Sources(self.inputs.prompts, self.inputs.benign, self.inputs.skill),
                ),
                Models(self.inputs.base, self.inputs.adapter, self.inputs.aligned),
                Amounts(None, spent.skill, spent.answer_tokens, SKILL_TOKENS, self._batch_size),
                answerer=self._answerer, called=("BASE", "ADAPTER"),
            )  # fmt: skip
            write_json(self._made, {kind: dict(count) for kind, count in made.cases.items()})
            _free()
        return "skill" in files

    def _train(self, method: Method, template: str | None, skill: bool, lock: int) -> Path:
        work = self.folders.work
        done = work / "done" / f"{method}.json"
        given = training.options(self.inputs, self.folders, method, template, skill)
        given |= {"enable_thinking": False} if self._can_think else {}
        running.train(method, work / f"{method}.yaml", given, work / "logs" / f"{method}.log", done, lock)
        return done

    def _adapter(self, candidate: Candidate) -> Path:
        """A candidate as a plain LoRA adapter; written where it is not there yet."""
        trained = self.folders.models / candidate.method
        if candidate.method == "masks":
            exported = self.folders.models / "masks-lora"
            if not exported.exists():
                from realign_plugin.subspace.subspace import SafetySubspace

                SafetySubspace.load(trained).to_lora(exported)
            trained = exported
        if candidate.strength == 1.0:
            return trained
        out = self.folders.models / candidate.name
        return out if out.exists() else write_between(self.inputs.adapter, trained, candidate.strength, out)

    def _measurer(self, session: Session | None = None) -> Measurer:
        adapters = {ALIGNED: self.inputs.aligned, FINE_TUNED: self.inputs.adapter}
        return Measurer(
            self.folders.measured, self.inputs.base, adapters, batch_size=self._batch_size,
            answer_tokens=self.inputs.spent.answer_tokens, session=session, answerer=self._answerer,
        )  # fmt: skip

    def _choose(self) -> tuple[Candidate, dict[str, Cost]]:
        """The candidate with the smallest cost on the validation prompts, of all methods and strengths."""
        measurer, part = self._measurer(), self.parts.validation
        ends = [measurer.measure(name, "validation", part) for name in (ALIGNED, FINE_TUNED)]
        tried: dict[str, Cost] = {}
        candidates = list(self._candidates())
        for one in candidates:
            measurer.add(one.name, self._adapter(one))
            tried[one.name] = cost(measurer.measure(one.name, "validation", part), *ends)
        measurer.close()
        _free()
        return min(candidates, key=lambda one: tried[one.name].total), tried

    def _candidates(self) -> Iterator[Candidate]:
        for method in self.inputs.methods:
            whole = Candidate(method, 1.0)
            turns = can_turn(self.inputs.adapter, self._adapter(whole))
            yield from (Candidate(method, one) for one in self.inputs.spent.strengths if one == 1.0 or turns)

    def _keep(self, kept: Candidate) -> None:
        clean_up(self.folders.out)
        write_between(self.inputs.adapter, self._adapter(kept), 1.0, self.folders.out)

    def _compare(self, kept: Candidate, tried: dict[str, Cost], trained: dict[Method, Path]) -> Verdict:
        from realign_plugin.lab.report.page import write_report

        measurer = self._measurer(self.session)
        measurer.add(kept.name, self.folders.out)
        names = {ALIGNED: ALIGNED, FINE_TUNED: FINE_TUNED, "repaired": kept.name}
        found = {label: measurer.measure(name, "test", self.parts.test) for label, name in names.items()}
        rows, told = [row_of(name, one) for name, one in found.items()], verdict(found)
        writing.write_table(self.folders, rows, told, kept, tried)
        file = self.folders.out / "study.yaml"
        if not (file.exists() and (self.folders.work / writing.STUDY).exists()):  # else the user may have added to it
            study = as_study(self.inputs, self.folders.out, file.name, self._template(), self._can_think)
            write_text(file, study)
        write_text(self.folders.out / "README.md", card(self.inputs, rows, told, kept))
        shown = writing.study_of(self.inputs, rows, kept, told, found.values())
        tables = [writing.main_table(rows, shown.models), writing.choice_table(kept, tried)]
        writing.write_run(self.folders, shown, tables, trained)
        write_report(self.folders.work, self.folders.out / "report.html")
        writing.print_table(rows, told, kept)
        return told


def file_hashes(base: str, adapters: Sequence[Path | None], sources: Sequence[str]) -> dict[str, str]:
    """sha256 of adapters' files and of sources that are files, and the base's ``model_stamp``, by their names.

    Args:
        base: The base model: a folder or a hub id.
        adapters: Folders of LoRA adapters; None stands for none.
        sources: Files, hub ids or names of tasks.

    Raises:
        UserError: If an adapter cannot be read.
    """
    found: dict[str, str] = {}
    for option, adapter in zip(("ADAPTER", "--aligned"), adapters, strict=False):
        if adapter is not None:
            read_lora(adapter, option)
            found |= {str(adapter): sha256(adapter / WEIGHTS_NAME)}
            found |= {str(adapter / CONFIG_NAME): sha256(adapter / CONFIG_NAME)}
    found |= {base: model_stamp(Path(base))} if Path(base).is_dir() else {}
    return found | {source: sha256(Path(source)) for source in sources if Path(source).is_file()}


def _session(judge: str | None) -> Session | None:
    if judge is None:
        return None
    from realign_plugin.evaluation.judging.settings import EvaluationSettings
    from realign_plugin.evaluation.session import Session

    return Session(EvaluationSettings.load({"judge": "openai", "judge_model": judge}))


def several_gpus() -> bool:
    """Whether trainings on this machine are torchrun's."""
    import torch

    return torch.cuda.device_count() > 1


def _free() -> None:
    """Give the models' memory back before a training needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
