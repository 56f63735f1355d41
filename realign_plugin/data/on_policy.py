"""On-policy data: the aligned and the fine-tuned model's own answers; needs only prompts.

``NAME.answers.jsonl`` has both models' answers to the safety prompts, and the fine-tuned model's to the skill prompts.
Three data sets are made of it: ``NAME`` (the aligned model's answers, for self-distillation), ``NAME_skill`` (the
fine-tuned model's, or those of the training data) and ``NAME_pairs`` (the aligned model's answer over what it would
not have said). Without a fine-tuned model only the aligned one answers, and there are no pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final

from realign_plugin.chat_templates import model_can_think
from realign_plugin.data.answering.journal import Journal
from realign_plugin.data.answering.local import ALIGNED, FINE_TUNED, Answerer
from realign_plugin.data.answering.server import OPTIONS
from realign_plugin.data.dataset_info import check_name
from realign_plugin.data.on_policy_options import Amounts, Models, Sources
from realign_plugin.data.preparation import Prepared, prepare
from realign_plugin.data.prompts import check_overlap, read_prompts, skill_prompts
from realign_plugin.data.recipe import Recipe, Request
from realign_plugin.data.refusals import REFUSALS, language_of
from realign_plugin.data.rows.columns import DroppedError, Row
from realign_plugin.data.rows.conversations import fine_tuning_example, request
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.data.rows.sources import rows_of
from realign_plugin.data.selection import in_validation, keyed_hash
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.coherence import incoherence
from realign_plugin.evaluation.answers.refusals import refuses
from realign_plugin.evaluation.answers.thinking import final_answer
from realign_plugin.outputs import refuse_inputs

CASES: Final = ("both refuse", "only the aligned model", "only the fine-tuned model", "neither")
ALONE: Final = ("by the aligned model", "not")
"""The cases where only the aligned model answers."""
BATCH_SIZE: Final = 16
SERVER_BATCH_SIZE: Final = 256
"""Answers between two entries of the journal; a server is asked for as many at once as it is allowed to be."""
WARNING: Final = "Prompts, and answers of the fine-tuned model, may be harmful: use them to repair and measure only."


@dataclass
class OnPolicy:
    """What was made.

    Attributes:
        prepared: The data sets.
        cases: For ``harmful`` and ``benign`` prompts, how many of each of ``CASES``, or of ``ALONE``.
    """

    prepared: list[Prepared]
    cases: dict[str, Counter[str]]


def on_policy(
    request: Request, sources: Sources, models: Models, amounts: Amounts, *,
    answerer: Callable[..., Answerer] = Answerer, called: tuple[str, str] = ("--model", "--adapter"),
) -> OnPolicy:  # fmt: skip
    """Ask both models, and make data sets from their answers; an interrupted run resumes.

    Args:
        request: Folder, name, validation share, seed, and whether data sets of the same names are replaced.
        sources: Where prompts come from.
        models: The models that answer.
        amounts: Limits and lengths.
        answerer: What loads the models where there is no server.
        called: What the user calls the base model and the fine-tuned adapter.

    Raises:
        UserError: If an option, a source or an adapter is at fault, prompts overlap with the evaluation, the aligned
            model refuses nothing, or the models do not differ.
    """
    name, seed, at_server = request.name, request.seed, models.server is not None
    read = [*sources.prompts, *sources.benign, *sources.skill, *sources.evaluation]
    for number, one in enumerate((name, f"{name}_skill", f"{name}_pairs")):
        check_name("--name" if not number else f"--name: {one!r} of", one)
        for end in (".jsonl", "_validation.jsonl", ".rows.jsonl", ".answers.jsonl", ".card.json"):
            refuse_inputs(request.folder / f"{one}{end}", read)
    models.check()
    asked = {
        "harmful": read_prompts(sources.prompts, "--prompts", amounts.limit, seed),
        "benign": read_prompts(sources.benign, "--benign", amounts.limit, seed),
    }
    skill, answered = skill_prompts(sources.skill, amounts.skill_limit, seed)
    if skill and not models.both:
        raise UserError(
            f"--skill: {sources.skill[0]} has no answers, expected some, since no fine-tuned model is given that "
            f"could answer; add them, or give {called[1]}"
        )
    trained = skill if not answered else read_prompts(sources.skill, "--skill", None, seed)
    for prompts in ([*asked["harmful"], *asked["benign"]], skill):
        _check_halves(prompts, request)
    check_overlap([*asked["harmful"], *asked["benign"], *trained], sources.evaluation)
    tokens = {"max_tokens": amounts.max_tokens, "skill_max_tokens": amounts.skill_max_tokens}
    asked_how = {"thinking": 0} if models.model and not at_server and model_can_think(models.model) else {}
    size = amounts.batch_size or (SERVER_BATCH_SIZE if at_server else BATCH_SIZE)
    journal = Journal(
        request.folder / f"{name}.answers.jsonl", models.notes(), tokens | asked_how | {"batch_size": size},
        overwrite=request.overwrite,
    )  # fmt: skip
    safety = [*asked["harmful"], *asked["benign"]]
    asking = [(model, safety, amounts.max_tokens) for model in models.roles]
    with journal:
        *said, own = journal.answers(
            [*asking, (FINE_TUNED, skill, amounts.skill_max_tokens)],
            lambda: models.load(answerer, max(tokens.values())),
        )
    rows = _rows(asked, dict(zip(models.roles, said, strict=True)))
    cases = _cases(rows)
    names = tuple(OPTIONS.values()) if at_server else called
    _check_finished(rows, names[0], amounts.max_tokens)
    _check_worth(cases, names, at_server)
    options = {"max_tokens": amounts.max_tokens, "validation": request.validation, "limit": amounts.limit}
    more = {"models": journal.models, "cases": {kind: dict(counts) for kind, counts in cases.items()}}
    given: dict[str, Any] = {"options": options, "warning": WARNING, "more": more}
    recipes = [*_safety_recipes(request, journal, rows, models.both, given)]
    if skill:
        answers = [_row(prompt) | {"answer": answer} for prompt, answer in zip(skill, own, strict=True)]
        what = "Prompts of the skill with the fine-tuned model's answers."
        source = journal.table(f"{name}_skill", answers)
        recipes.append(_recipe(request, "skill", kind="sft", what=what, source=source, convert=_own_answer, **given))
    elif answered:
        given_rows = (row for one in answered for _, row in rows_of(one, None))
        joined = answered[0] if len(answered) == 1 else journal.table(f"{name}_skill", given_rows)
        limited = replace(request, limit=amounts.skill_limit)
        what, options = "Prompts of the skill with their own answers.", {"limit": amounts.skill_limit}
        recipes.append(
            _recipe(
                limited, "skill", kind="sft", what=what, source=joined, convert=fine_tuning_example, options=options
            )
        )
    return OnPolicy([prepare(recipe) for recipe in recipes], cases)


def _check_halves(prompts: Sequence[Prompt], request: Request) -> None:
    """Check before anything is answered what ``prepare`` would find afterwards."""
    held_back = [in_validation(request.seed, prompt.opening, request.validation) for prompt in prompts]
    if request.validation > 0 and held_back and len(set(held_back)) == 1:
        part = "training" if held_back[0] else "validation"
        raise UserError(
            f"--validation: {request.validation:g} of {len(prompts):,} prompts leaves no {part} row, expected at "
            "least one; give another share or --seed"
        )


def _rows(asked: Mapping[str, Sequence[Prompt]], said: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The safety prompts with the models' answers."""
    prompts = [(kind, prompt) for kind, some in asked.items() for prompt in some]
    return [
        _row(prompt) | {"kind": kind} | {role: answers[number] for role, answers in said.items()}
        for number, (kind, prompt) in enumerate(prompts)
    ]


def _safety_recipes(
    request: Request, journal: Journal, rows: list[dict[str, Any]], paired: bool, given: Mapping[str, Any]
) -> Iterator[Recipe]:
    """The aligned model's answers, and the pairs where the fine-tuned one answered too."""
    answers = "Safety prompts with the aligned model's own answers."
    pairs = "Pairs: chosen is the aligned model's own answer, rejected what it would not have said."
    if rows:
        source = journal.table(request.name, rows)
        yield _recipe(request, kind="sft", what=answers, source=source, convert=_aligned_answer, **given)
    if rows and paired:
        # In no order, so that the first rows, which max_samples takes, are of both kinds.
        mixed = sorted(rows, key=lambda row: keyed_hash(request.seed, "order", row["prompt"]))
        source = journal.table(f"{request.name}_pairs", mixed)
        convert = _pair(request.seed)
        yield _recipe(request, "pairs", kind="preference", what=pairs, source=source, convert=convert, **given)


def _recipe(request: Request, end: str = "", **fields: Any) -> Recipe:
    """A recipe of the data set whose name has this end."""
    return Recipe(**vars(request) | {"name": f"{request.name}_{end}" if end else request.name}, **fields)


def _row(prompt: Prompt) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt.instruction, "input": prompt.input}
    return row | {"system": prompt.system, "history": [list(turn) for turn in prompt.history]}


def _answer(text: str) -> str | None:
    """An answer without its thinking; None where nothing is left."""
    answer = final_answer(text)
    return None if answer is None or incoherence(answer) is not None else answer


def _cases(rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    cases: dict[str, Counter[str]] = {}
    for row in rows:
        said = [refuses(_answer(row[name]) or "") for name in (ALIGNED, FINE_TUNED) if name in row]
        names = CASES if len(said) > 1 else ALONE
        place = reduce(lambda number, refused: 2 * number + (not refused), said, 0)
        cases.setdefault(row["kind"], Counter(dict.fromkeys(names, 0)))[names[place]] += 1
    return cases


def _check_finished(rows: Sequence[Mapping[str, Any]], aligned: str, tokens: int) -> None:
    """Refuse a model that is still thinking when its answers are cut."""
    thinking = sum(final_answer(row[ALIGNED]) is None for row in rows)
    if 2 * thinking > len(rows):
        raise UserError(
            f"{aligned}: {thinking} of {len(rows)} answers of the aligned model are still thinking after {tokens} "
            "tokens, expected answers; use a model that does not think, or a chat template that turns thinking off"
        )


def _check_worth(cases: Mapping[str, Counter[str]], options: Sequence[str], at_server: bool) -> None:
    aligned, adapter = options
    other = "name another" if at_server else "give its adapter as --aligned"
    harmful = cases.get("harmful", Counter())
    total, refused = harmful.total(), harmful[CASES[0]] + harmful[CASES[1]] + harmful[ALONE[0]]
    if total and not refused:
        raise UserError(
            f"{aligned}: the aligned model refuses 0 of {total} harmful prompts, expected one that refuses some; "
            f"align it first (docs/data.md, align), or {other}"
        )
    alone = any(ALONE[0] in count for count in cases.values())
    if not alone and not any(count[CASES[1]] + count[CASES[2]] for count in cases.values()):
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
