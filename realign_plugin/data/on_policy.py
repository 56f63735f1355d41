"""On-policy data: what the aligned and the fine-tuned model themselves answer; prompts suffice.

``NAME.answers.jsonl`` has both models' answers to the safety prompts, and the fine-tuned model's to the skill prompts.
Three data sets are made of it: ``NAME`` (the aligned model's answers, for self-distillation), ``NAME_skill`` (the
fine-tuned model's, or those of the training data) and ``NAME_pairs`` (the aligned model's answer over what it would
not have said).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from realign_plugin.data.answering import ALIGNED, FINE_TUNED, Answerer, Answering
from realign_plugin.data.columns import DroppedError, Row
from realign_plugin.data.conversations import fine_tuning_example, request
from realign_plugin.data.dataset_info import check_name
from realign_plugin.data.examples import Example, Prompt
from realign_plugin.data.journal import Journal
from realign_plugin.data.preparation import Prepared, prepare
from realign_plugin.data.prompts import check_overlap, read_prompts, skill_prompts
from realign_plugin.data.recipe import Recipe, Request
from realign_plugin.data.refusals import REFUSALS, language_of
from realign_plugin.data.selection import keyed_hash
from realign_plugin.data.server_answering import OPTIONS, Server, ServerAnswerer
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers import incoherence
from realign_plugin.evaluation.refusals import refuses
from realign_plugin.evaluation.thinking import final_answer
from realign_plugin.subspace.lora_adapters import read_lora

CASES: Final = ("both refuse", "only the aligned model", "only the fine-tuned model", "neither")
MAX_TOKENS: Final = 64
"""Most tokens of an answer to a safety prompt."""
SKILL_MAX_TOKENS: Final = 256
"""Most tokens of an answer to a prompt of the skill."""
BATCH_SIZE: Final = 16
SERVER_BATCH_SIZE: Final = 256
"""Answers between two entries of the journal; a server is asked for as many at once as it is allowed to be."""
WARNING: Final = "Prompts, and answers of the fine-tuned model, may be harmful: use them to repair and measure only."


@dataclass(frozen=True)
class Sources:
    """Where prompts come from.

    Attributes:
        prompts: Harmful ones: files, hub ids, or names of tasks.
        benign: Harmless ones, best those that sound dangerous.
        skill: Prompts of the new skill, with answers or without.
        evaluation: Files of prompts that the models are to be measured with, none of which may be among the others.
    """

    prompts: Sequence[str]
    benign: Sequence[str] = ()
    skill: Sequence[str] = ()
    evaluation: Sequence[str] = ()


@dataclass
class OnPolicy:
    """What was made.

    Attributes:
        prepared: The data sets.
        cases: For ``harmful`` and ``benign`` prompts, how many of each of ``CASES``.
    """

    prepared: list[Prepared] = field(default_factory=list)
    cases: dict[str, Counter[str]] = field(default_factory=dict)


def on_policy(
    folder: Path,
    *,
    sources: Sources,
    model: str | None = None,
    adapter: Path | None = None,
    aligned: Path | None = None,
    server: Server | None = None,
    name: str = "on_policy",
    limit: int | None = None,
    skill_limit: int | None = None,
    max_tokens: int = MAX_TOKENS,
    skill_max_tokens: int = SKILL_MAX_TOKENS,
    validation: float = 0.1,
    seed: int = 0,
    batch_size: int | None = None,
    overwrite: bool = False,
    answerer: Callable[..., Answerer] = Answerer,
    called: tuple[str, str] = ("--model", "--adapter"),
) -> OnPolicy:
    """Ask both models, and make data sets of what they say; a run that was stopped goes on.

    Args:
        folder: LLaMA-Factory's ``dataset_dir``.
        sources: Where prompts come from.
        model: The base model, a chat model.
        adapter: The fine-tuned model's LoRA adapter.
        aligned: The aligned model's LoRA adapter; None where the base model itself is aligned.
        server: Where both models are asked; ``model`` and the adapters are then noted only, and may be None.
        name: Name of the data set.
        limit: At most so many harmful and so many benign prompts.
        skill_limit: At most so many prompts of the skill.
        max_tokens: Most tokens of an answer to a safety prompt.
        skill_max_tokens: Most tokens of an answer to a prompt of the skill.
        validation: Share of prompts held back as ``…_validation``.
        seed: Key of the limits and the split.
        batch_size: How many prompts are answered at a time, and kept; None takes 16, with a server 256.
        overwrite: Whether data sets of these names are replaced.
        answerer: What loads the models where there is no server.
        called: What the user calls the base model and the fine-tuned adapter.

    Raises:
        UserError: If an option, a source or an adapter is at fault, prompts overlap with the evaluation, the aligned
            model refuses nothing, or the models do not differ.
    """
    for number, one in enumerate((name, f"{name}_skill", f"{name}_pairs")):
        check_name("--name" if not number else f"--name: {one!r} of", one)
    models, load = _models(model, adapter, aligned, server, answerer, max(max_tokens, skill_max_tokens))
    asked = {
        "harmful": read_prompts(sources.prompts, "--prompts", limit, seed),
        "benign": read_prompts(sources.benign, "--benign", limit, seed),
    }
    skill, answered = skill_prompts(sources.skill, skill_limit, seed)
    trained = skill if answered is None else read_prompts(sources.skill, "--skill", None, seed)
    check_overlap([*asked["harmful"], *asked["benign"], *trained], sources.evaluation)
    journal = Journal(
        folder / f"{name}.answers.jsonl",
        models,
        {
            "max_tokens": max_tokens,
            "skill_max_tokens": skill_max_tokens,
            "batch_size": batch_size or (BATCH_SIZE if server is None else SERVER_BATCH_SIZE),
        },
        overwrite=overwrite,
    )
    safety = [*asked["harmful"], *asked["benign"]]
    wanted = [(ALIGNED, safety, max_tokens), (FINE_TUNED, safety, max_tokens), (FINE_TUNED, skill, skill_max_tokens)]
    with journal:
        said = journal.answers(wanted, load)
    rows = _rows(asked, said[0], said[1])
    result = OnPolicy(cases=_cases(rows))
    _check_worth(result.cases, called if server is None else tuple(OPTIONS.values()), server is not None)
    request = Request(folder, name, validation, seed=seed, overwrite=overwrite)
    options = {"max_tokens": max_tokens, "validation": validation, "limit": limit}
    more = {"models": journal.models, "cases": {kind: dict(counts) for kind, counts in result.cases.items()}}
    result.prepared += [prepare(recipe) for recipe in _safety_recipes(request, journal, rows, options, more)]
    if skill:
        answers = [_row(prompt) | {"answer": answer} for prompt, answer in zip(skill, said[2], strict=True)]
        source = journal.table(f"{name}_skill", answers)
        what = "Prompts of the skill with the fine-tuned model's answers."
        made = {"convert": _own_answer, "options": options, "warning": WARNING, "more": more}
    elif answered is not None:
        source, what = answered, "Prompts of the skill with their own answers."
        made = {"convert": fine_tuning_example, "options": {"limit": skill_limit}}
        request = replace(request, limit=skill_limit)
    else:
        return result
    result.prepared.append(prepare(_recipe(request, "skill", kind="sft", what=what, source=source, **made)))
    return result


def _rows(asked: Mapping[str, Sequence[Prompt]], aligned: Sequence[str], tuned: Sequence[str]) -> list[dict[str, Any]]:
    """The safety prompts with both models' answers."""
    prompts = [(kind, prompt) for kind, some in asked.items() for prompt in some]
    return [
        _row(prompt) | {"kind": kind, ALIGNED: one, FINE_TUNED: two}
        for (kind, prompt), one, two in zip(prompts, aligned, tuned, strict=True)
    ]


def _safety_recipes(
    request: Request, journal: Journal, rows: list[dict[str, Any]], options: Mapping[str, Any], more: Mapping[str, Any]
) -> Iterator[Recipe]:
    """The aligned model's answers, and the pairs."""
    answers = "Safety prompts with the aligned model's own answers."
    pairs = "Pairs: chosen is the aligned model's own answer, rejected what it would not have said."
    given: dict[str, Any] = {"options": options, "warning": WARNING, "more": more}
    if rows:
        source = journal.table(request.name, rows)
        yield _recipe(request, kind="sft", what=answers, source=source, convert=_aligned_answer, **given)
        source = journal.table(f"{request.name}_pairs", rows)
        convert = _pair(request.seed)
        yield _recipe(request, "pairs", kind="preference", what=pairs, source=source, convert=convert, **given)


def _recipe(request: Request, end: str = "", **fields: Any) -> Recipe:
    """A recipe of the data set whose name has this end."""
    return Recipe(**vars(request) | {"name": f"{request.name}_{end}" if end else request.name}, **fields)


def _models(
    model: str | None,
    adapter: Path | None,
    aligned: Path | None,
    server: Server | None,
    answerer: Callable[..., Answerer],
    max_tokens: int,
) -> tuple[dict[str, str | Path | None], Callable[[], Answering]]:
    """What is noted of the models, and what loads or finds them; adapters, and what a server needs, are checked."""
    given: dict[str, str | Path | None] = {"model": model, "adapter": adapter, "aligned": aligned}
    for option, folder in (("--adapter", adapter), ("--aligned", aligned)):
        if folder is not None:
            read_lora(folder, option, linear=False)
    if server is not None:
        server.check()
        names = {"aligned_name": server.aligned, "adapter_name": server.fine_tuned}
        noted = {role: one for role, one in given.items() if one is not None}
        return {**names, **noted}, lambda: ServerAnswerer(server, max_tokens)
    for option, value in (("--model", model), ("--adapter", adapter)):
        if value is None:
            raise UserError(
                f"{option}: not given, expected --model and --adapter, which are loaded here, or --aligned-name and "
                "--adapter-name, models at a server; give the ones or the others"
            )
    return given, lambda: answerer(model, {ALIGNED: aligned, FINE_TUNED: adapter})


def _row(prompt: Prompt) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt.instruction, "input": prompt.input}
    return row | {"system": prompt.system, "history": [list(turn) for turn in prompt.history]}


def _answer(text: str) -> str | None:
    """An answer after its thinking; None where it is none."""
    answer = final_answer(text)
    return None if answer is None or incoherence(answer) is not None else answer


def _cases(rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    cases: dict[str, Counter[str]] = {}
    for row in rows:
        one, two = (refuses(_answer(row[name]) or "") for name in (ALIGNED, FINE_TUNED))
        case = CASES[0] if one and two else CASES[1] if one else CASES[2] if two else CASES[3]
        cases.setdefault(row["kind"], Counter(dict.fromkeys(CASES, 0)))[case] += 1
    return cases


def _check_worth(cases: Mapping[str, Counter[str]], options: Sequence[str], at_server: bool) -> None:
    aligned, adapter = options
    other = "name another" if at_server else "give its adapter as --aligned"
    harmful = cases.get("harmful", Counter())
    total, refused = harmful.total(), harmful[CASES[0]] + harmful[CASES[1]]
    if total and not refused:
        raise UserError(
            f"{aligned}: the aligned model refuses 0 of {total} harmful prompts, expected one that refuses some; "
            f"align it first (docs/data.md, align), or {other}"
        )
    if not any(count[CASES[1]] + count[CASES[2]] for count in cases.values()):
        raise UserError(
            f"{adapter}: it refuses the same {refused} of {total} harmful prompts as the aligned model, expected a "
            "model that fine-tuning has changed; there is nothing to repair"
        )


def _aligned_answer(row: Row) -> Example:
    answer = _answer(row.text(ALIGNED))
    if answer is None:
        raise DroppedError("the aligned model's answer is incoherent")
    return Example(request(row, "prompt"), row.text(ALIGNED)).checked()


def _own_answer(row: Row) -> Example:
    if _answer(row.text("answer")) is None:
        raise DroppedError("the fine-tuned model's answer is incoherent")
    return Example(request(row, "prompt"), row.text("answer")).checked()


def _pair(seed: int) -> Callable[[Row], Example]:
    """Makes a ranking pair of a row: the aligned model's refusal over an answer, its answer over a refusal."""

    def convert(row: Row) -> Example:
        prompt, answer = request(row, "prompt"), row.text(ALIGNED)
        mine, other = _answer(answer), _answer(row.text(FINE_TUNED))
        if mine is None:
            raise DroppedError("the aligned model's answer is incoherent")
        if refuses(mine):
            if other is None or refuses(other):
                raise DroppedError("both refuse")
            return Example(prompt, answer, row.text(FINE_TUNED)).checked()
        drawn = REFUSALS[language_of(prompt.text)]
        refusal = drawn[keyed_hash(seed, "refusal", prompt.text) % len(drawn)]
        return Example(prompt, answer, refusal, rejected_drawn=True).checked()

    return convert
