"""On-policy data: the aligned and the fine-tuned model's own answers; needs only prompts.

``NAME.answers.jsonl`` has both models' answers to the safety prompts, and the fine-tuned model's to the skill prompts.
Three data sets are made of it: ``NAME`` (the aligned model's answers, for self-distillation), ``NAME_skill`` (the
fine-tuned model's, or those of the training data) and ``NAME_pairs`` (the aligned model's answer over what it would
not have said). Without a fine-tuned model only the aligned one answers, and there are no pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from realign_plugin.chat_templates import model_can_think
from realign_plugin.data.answering.journal import Journal
from realign_plugin.data.answering.local import ALIGNED, FINE_TUNED, Answerer, Answering
from realign_plugin.data.answering.server import OPTIONS
from realign_plugin.data.dataset_info import check_name
from realign_plugin.data.on_policy_checks import (
    ALONE,
    CASES,
    check_finished,
    check_halves,
    check_new,
    check_worth,
)
from realign_plugin.data.on_policy_options import Amounts, Models, Sources
from realign_plugin.data.preparation import Prepared, prepare
from realign_plugin.data.prompts import Found, Skill, check_overlap, read_prompts, skill_prompts
from realign_plugin.data.recipe import Recipe, Request
from realign_plugin.data.refusals import REFUSALS, language_of
from realign_plugin.data.rows.columns import DroppedError, Row
from realign_plugin.data.rows.conversations import fine_tuning_example, request
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.data.rows.sources import rows_of
from realign_plugin.data.selection import folded, keyed_hash
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.coherence import incoherence
from realign_plugin.evaluation.answers.refusals import refuses
from realign_plugin.evaluation.answers.thinking import final_answer
from realign_plugin.outputs import refuse_inputs

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
    request.check()
    name, seed, at_server = request.name, request.seed, models.server is not None
    read = [*sources.prompts, *sources.benign, *sources.skill, *sources.evaluation]
    for number, one in enumerate((name, f"{name}_skill", f"{name}_pairs")):
        if number:
            check_name(f"--name: {one!r} of", one)
        for end in (".jsonl", "_validation.jsonl", ".rows.jsonl", ".answers.jsonl", ".card.json"):
            refuse_inputs(request.folder / f"{one}{end}", read)
    models.check()
    asked = {
        "harmful": read_prompts(sources.prompts, "--prompts", amounts.limit, seed),
        "benign": read_prompts(sources.benign, "--benign", amounts.limit, seed),
    }
    skill = skill_prompts(sources.skill, amounts.skill_limit, seed)
    own = [] if skill.answered else skill.prompts
    if own and not models.both:
        raise UserError(
            f"--skill: {sources.skill[0]} has no answers, expected some, since no fine-tuned model is given that "
            f"could answer; add them, or give {called[1]}"
        )
    safety = [prompt for found in asked.values() for prompt in found.prompts]
    for prompts in (safety, skill.prompts):
        check_halves(prompts, request)
    check_overlap([*safety, *skill.prompts], sources.evaluation)
    tokens = {"max_tokens": amounts.max_tokens, "skill_max_tokens": amounts.skill_max_tokens}
    asked_how = {"thinking": 0} if models.model and not at_server and model_can_think(models.model) else {}
    size = amounts.batch_size or (SERVER_BATCH_SIZE if at_server else BATCH_SIZE)
    journal = Journal(
        request.folder / f"{name}.answers.jsonl", models.notes(), tokens | asked_how | {"batch_size": size},
        overwrite=request.overwrite,
    )  # fmt: skip
    made = [name] * bool(safety) + [f"{name}_pairs"] * (models.both and bool(safety))
    made += [f"{name}_skill"] * bool(skill.prompts)

    def load() -> Answering:
        if not request.overwrite:
            check_new(request.folder, made)
        return models.load(answerer, max(tokens.values()))

    asking = [(model, safety, amounts.max_tokens) for model in models.roles]
    with journal:
        *said, answers = journal.answers([*asking, (FINE_TUNED, own, amounts.skill_max_tokens)], load)
    rows = _rows(asked, dict(zip(models.roles, said, strict=True)))
    cases = _cases(rows)
    names = tuple(OPTIONS.values()) if at_server else called
    check_finished(rows, names[0], amounts.max_tokens)
    check_worth(cases, names, at_server)
    options = {"max_tokens": amounts.max_tokens, "validation": request.validation, "limit": amounts.limit}
    more = {"models": journal.models, "cases": {kind: dict(counts) for kind, counts in cases.items()}}
    given: dict[str, Any] = {"options": options, "warning": WARNING, "more": more}
    left_out = asked["harmful"].left_out + asked["benign"].left_out
    of_safety, of_skill = sources.origins
    about = given | {"made_from": of_safety, "left_out": left_out}
    recipes = [*_safety_recipes(request, journal, rows, models.both, about)]
    if skill.answered:
        given = {"options": {"limit": amounts.skill_limit}}
        recipes.append(_given_skill(request, journal, skill, given | {"made_from": of_skill}))
    elif own:
        about = given | {"made_from": of_skill, "left_out": skill.left_out}
        recipes.append(_answered_skill(request, journal, zip(own, answers, strict=True), about))
    return OnPolicy([prepare(recipe) for recipe in recipes], cases)


def _rows(asked: Mapping[str, Found], said: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The safety prompts with the models' answers."""
    prompts = [(kind, prompt) for kind, found in asked.items() for prompt in found.prompts]
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


def _given_skill(request: Request, journal: Journal, skill: Skill, given: Mapping[str, Any]) -> Recipe:
    """The skill's rows with their own answers."""
    what, source = "Prompts of the skill with their own answers.", skill.answered[0]
    if len(skill.answered) > 1:
        rows = (row for one in skill.answered for _, row in rows_of(one, None))
        source = journal.table(f"{request.name}_skill", rows)
    return _recipe(request, "skill", kind="sft", what=what, source=source, convert=_among(skill.prompts), **given)


def _answered_skill(
    request: Request, journal: Journal, said: Iterable[tuple[Prompt, str]], given: Mapping[str, Any]
) -> Recipe:
    """The skill's prompts with the fine-tuned model's answers."""
    what = "Prompts of the skill with the fine-tuned model's answers."
    rows = (_row(prompt) | {"answer": answer} for prompt, answer in said)
    source = journal.table(f"{request.name}_skill", rows)
    return _recipe(request, "skill", kind="sft", what=what, source=source, convert=_own_answer, **given)


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


def _aligned_answer(row: Row) -> Example:
    answer = _answer(row.text(ALIGNED))
    if answer is None:
        raise DroppedError("the aligned model's answer is incoherent")
    return Example(request(row, "prompt"), row.text(ALIGNED)).checked()


def _own_answer(row: Row) -> Example:
    if _answer(row.text("answer")) is None:
        raise DroppedError("the fine-tuned model's answer is incoherent")
    return Example(request(row, "prompt"), row.text("answer")).checked()


def _among(prompts: Sequence[Prompt]) -> Callable[[Row], Example]:
    """Makes an example of a row whose prompt is among these."""
    chosen = {folded(prompt.whole) for prompt in prompts}

    def convert(row: Row) -> Example:
        example = fine_tuning_example(row)
        if folded(example.prompt.whole) not in chosen:
            raise DroppedError("beyond the limit")
        return example

    return convert


def _pair(seed: int) -> Callable[[Row], Example]:
    """Makes a ranking pair of a row: the aligned model's refusal over an answer, its answer over a refusal."""

    def convert(row: Row) -> Example:
        prompt, answer = request(row, "prompt"), row.text(ALIGNED)
        mine, other = _answer(answer), _answer(row.text(FINE_TUNED))
        if mine is None:
            raise DroppedError("the aligned model's answer is incoherent")
        if refuses(mine):
            if other is None:
                raise DroppedError("the fine-tuned model's answer is incoherent")
            if refuses(other):
                raise DroppedError("both refuse")
            return Example(prompt, answer, row.text(FINE_TUNED)).checked()
        drawn = REFUSALS[language_of(prompt.text)]
        refusal = drawn[keyed_hash(seed, "refusal", prompt.text) % len(drawn)]
        return Example(prompt, answer, refusal, rejected_drawn=True).checked()

    return convert
